from pathlib import Path
from typing import Any

import pytest

import tag2mask.api.superpixels
from tag2mask.api.superpixels import Superpixels
from tag2mask.cli import main


def test_words_reach_the_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def superpixels(photographs: list[str], out: str, **given: Any) -> list[Superpixels]:
        calls.append((photographs, out, given))
        return [Superpixels(Path("a.jpg"), Path("a.png"), Path("b.jpg"), count) for count in (7, 10)]

    real = tag2mask.superpixels.__kwdefaults__
    monkeypatch.setattr(tag2mask.api.superpixels, "superpixels", superpixels)
    assert main(["superpixels", "photos", "--out", "there"]) == 0
    words = "--tau 0.4 --backbone vit_x --weights w.pt --long_side 0 --centre mean --highest_first --no_crf"
    machine = "--device cpu --precision bf16-mixed --threads 3"
    assert main(["superpixels", "a", "b", "--out", "there", *words.split(), *machine.split()]) == 0
    photographs, out, given = calls[0]
    assert (photographs, out) == (["photos"], "there")
    assert given == {name: real[name] for name in given}
    assert set(given) == set(real) - {"quiet"}
    assert calls[1] == (
        ["a", "b"],
        "there",
        {
            "tau": 0.4,
            "backbone": "vit_x",
            "weights": "w.pt",
            "long_side": 0,
            "centre": "mean",
            "highest_first": True,
            "use_crf": False,
            "device": "cpu",
            "precision": "bf16-mixed",
            "threads": 3,
        },
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "8.5 superpixels per photograph on average"
    assert lines[1] == f"2 label maps: {Path('there') / 'labels'}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tau", "1"], "superpixels.tau: 1.0 must be at least 0 and below 1"),
        (["--backbone", "resnet50"], "'resnet50' is no vision transformer"),
        (["--backbone", "vit_smal_patch14_dinov2"], "vit_small_patch14_dinov2"),
        ([], "nowhere: there is no such file or folder"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["superpixels", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
