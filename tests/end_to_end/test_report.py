"""From a run to its page, as people use it: small shapes, random weights, the real commands."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tag2mask.cli import main
from tests.browser import browser  # noqa: F401  (a fixture)
from tests.builders import TINY, file_bytes, write_shapes
from tests.disks import remount, small_disk_at


def run(folder: Path, *more: str) -> Path:
    """Runs `cam` on ``folder/data`` and returns the run's folder."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    places = ["--data", str(folder / "data"), "--workspace", str(folder / "ws")]
    words = ["run", "cam", "--config", str(folder / "tiny.yaml"), "--threads", "1", "--pictures", "2", *places, *more]
    assert main(words) == 0
    (made,) = (folder / "ws" / "runs").glob("cam-*")
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with truth and the upper bound; changed by no test."""
    folder = tmp_path_factory.mktemp("report")
    write_shapes(folder / "data")
    return run(folder, "--bound", "true")


@pytest.fixture(scope="module")
def without_truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on photographs with a table of tags and nothing else."""
    folder = tmp_path_factory.mktemp("no-truth")
    shapes = write_shapes(folder / "shapes", train=12, val=0, masks=False)
    (shapes / "JPEGImages").rename(folder / "data")
    rows = list(csv.reader((shapes / "tags.csv").open()))
    with (folder / "data" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[Path(path).name if "/" in path else path, label] for path, label in rows])
    return run(folder, "--hold_out", "0.2")


def test_a_run_ends_with_the_path_of_its_page(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made.parents[2]
    run(home, "--bound", "true")
    assert capsys.readouterr().out.splitlines()[-1] == f"report:   {made / 'report.html'}"


def test_the_page_shows_the_run(made: Path) -> None:
    page = (made / "report.html").read_text()
    content = json.loads((made / "run.json").read_text())
    assert made.name in page
    for word in ("shape_00", "shape_08", "pseudo-label", "supervised", "truth", "disc", "square", "threshold curve"):
        assert word in page, word
    assert content["finished"][:16].replace("T", " ") in page
    for stage in content["stages"]:
        assert stage["folder"] in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)  # nothing is fetched


def test_the_command_writes_the_same_page_and_nothing_else(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = made.parents[1]
    before, page = file_bytes(workspace), (made / "report.html").read_bytes()
    times = {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.name != "report.html"}
    assert main(["report", str(made), "--out", str(tmp_path / "new" / "page.html")]) == 0
    assert capsys.readouterr().out == f"report:   {tmp_path / 'new' / 'page.html'}\n"
    assert (tmp_path / "new" / "page.html").read_bytes() == page
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert main(["report", str(made / "run.json")]) == 0
    assert (made / "report.html").read_bytes() == page
    assert file_bytes(workspace) == before


def test_a_smaller_gallery(made: Path, tmp_path: Path) -> None:
    sizes = []
    for count in (0, 2, 9):
        assert main(["report", str(made), "--gallery", str(count), "--out", str(tmp_path / f"{count}.html")]) == 0
        page = (tmp_path / f"{count}.html").read_text()
        assert sum(f"shape_{index:02d}" in page for index in range(9)) == count
        sizes.append(len(page))
    assert sizes == sorted(sizes)


def test_a_workspace_in_use_can_be_reported_on(made: Path, tmp_path: Path) -> None:
    from tag2mask.engine.workspace import Workspace

    with Workspace(made.parents[1]).lock():
        assert main(["report", str(made), "--out", str(tmp_path / "page.html")]) == 0


def test_a_workspace_that_cannot_be_written_to(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk_at(tmp_path / "disk", "50m") as disk:
        shutil.copytree(made.parents[1], disk / "ws")
        folder = disk / "ws" / "runs" / made.name
        remount(disk, "ro")
        assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
        assert (tmp_path / "page.html").read_bytes() == (made / "report.html").read_bytes()
        capsys.readouterr()
        assert main(["report", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"tag2mask: error: {folder / 'report.html'}: Read-only file system"


def test_a_missing_stage_is_one_line_with_the_command(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stage,) = (made.parents[1] / "stages").glob("seeds-*")
    stage.rename(tmp_path / stage.name)
    try:
        assert main(["report", str(made)]) == 2
    finally:
        (tmp_path / stage.name).rename(stage)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tag2mask: error: {made}: its stage {stage.name} is not in ")
    command = shlex.split(line.partition("with: tag2mask ")[2])
    assert main(command) == 0  # it is the command that makes it again


def test_without_truth_the_page_says_so(without_truth: Path) -> None:
    page = (without_truth / "report.html").read_text()
    assert "no truth: no true masks of the" in page
    assert "held out of training" in page
    assert "pseudo-label" in page
    assert "no truth: no true masks of the" in (without_truth / "summary.md").read_text()


def test_a_browser_shows_both_pages(browser: Chrome, made: Path, without_truth: Path) -> None:  # noqa: F811
    drawn = "return [...document.images].some((image) => image.complete && image.naturalWidth)"
    for folder, seen in ((made, "IoU"), (without_truth, "no truth")):
        browser.get((folder / "report.html").as_uri())
        WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(drawn))
        text = browser.find_element(By.TAG_NAME, "body").text
        assert folder.name in text
        assert seen in text
        assert "shape_0" in text
        errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert errors == []
