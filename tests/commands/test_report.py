from pathlib import Path

import pytest

from tag2mask.cli import main


def test_words_reach_the_verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def report(run: str, *, out: str | None, gallery: int | None, allow_pickle: bool) -> Path:
        calls.append((run, out, gallery, allow_pickle))
        return Path("made.html")

    monkeypatch.setattr("tag2mask.api.report.report", report)
    assert main(["report", "runs/cam-1"]) == 0
    assert main(["report", "runs/cam-1", "--out", "here.html", "--gallery", "2", "--allow_pickle"]) == 0
    assert calls == [("runs/cam-1", None, None, False), ("runs/cam-1", "here.html", 2, True)]
    assert capsys.readouterr().out == "report:   made.html\n" * 2


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tag2mask: error: {tmp_path / 'run.json'}: ")
