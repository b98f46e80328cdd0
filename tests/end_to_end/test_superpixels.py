"""`tag2mask superpixels` on demo scenes with the pretrained transformer."""

from pathlib import Path

import pytest

from tag2mask.cli import main
from tag2mask.data.datasets import open_dataset
from tag2mask.data.demo import write_demo_data
from tag2mask.data.label_maps import read_label_map
from tag2mask.data.samples import Split
from tag2mask.evaluation.superpixels import SuperpixelMeans


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Drawn scenes with true masks."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo_data(folder, train=2, val=1)
    return open_dataset(folder).train


@pytest.mark.parametrize("centre", ["bias", "mean"])
def test_superpixels_of_drawn_scenes_follow_their_objects(
    scenes: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str], centre: str
) -> None:
    photographs = [str(sample.image) for sample in scenes]
    words = ["superpixels", *photographs, "--out", str(tmp_path), "--centre", centre]
    assert main([*words, "--device", "cpu", "--threads", "1"]) == 0
    means = SuperpixelMeans()
    for sample in scenes:
        assert sample.mask is not None
        labels = read_label_map(tmp_path / "labels" / f"{sample.image.stem}.png")
        means.add(labels, sample.mask.read())
        assert (tmp_path / "boundaries" / f"{sample.image.stem}.jpg").is_file()
    scores = means.scores()
    assert 2 <= scores.superpixels <= 60
    assert scores.achievable_accuracy is not None
    assert scores.achievable_accuracy > 0.9
    assert f"{scores.superpixels:.1f} superpixels per photograph on average" in capsys.readouterr().out


def test_raw_keys_of_dinov2_give_one_superpixel(
    scenes: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = scenes.samples[0].image
    words = ["superpixels", str(photograph), "--out", str(tmp_path), "--centre", "none", "--tau", "0.3"]
    assert main([*words, "--device", "cpu", "--threads", "1"]) == 0
    assert "1.0 superpixels per photograph on average" in capsys.readouterr().out
    assert not read_label_map(tmp_path / "labels" / f"{photograph.stem}.png").any()
