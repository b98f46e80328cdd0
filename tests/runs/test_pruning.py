import json
from pathlib import Path
from typing import Any

import pytest

import tag2mask
from tag2mask.base.files import folder_size
from tag2mask.errors import WorkspaceError
from tag2mask.runs.listing import list_workspace
from tag2mask.runs.pruning import prune_workspace
from tag2mask.runs.record import RUN_FILE
from tests.runs.workspaces import everything, stage


def test_nothing_is_deleted_without_being_told_to(root: Path) -> None:
    before = everything(root)
    pruned = tag2mask.prune_workspace(root, runs=["cam-aa01"], unfinished=True)
    assert not pruned.deleted
    assert everything(root) == before
    assert pruned.runs == ("cam-aa01", "cam-bb")
    assert "nothing was deleted; --yes deletes it" in pruned.text()


def test_what_no_run_uses_goes(root: Path) -> None:
    size = folder_size(root)
    pruned = prune_workspace(root, dry_run=False)
    assert pruned.deleted
    assert pruned.runs == ()
    assert [name[:5] for name in pruned.stages] == ["cams-"]
    assert set(pruned.leftovers) == {
        "stages/segmenter-0000000000000002/items/b.png.part",
        "stages/seeds-0000000000000009.part",
    }
    assert size - folder_size(root) == pruned.bytes == 7502
    assert {path.name[:-17] for path in (root / "stages").iterdir()} == {"classifier", "segmenter"}
    assert prune_workspace(root, dry_run=False).text() == "nothing to free"


@pytest.mark.parametrize("given", ["cam-aa01", "cam-aa01/", "path"])
def test_a_run_goes_with_the_stages_only_it_uses(root: Path, given: str) -> None:
    name = str(root / "runs" / "cam-aa01") if given == "path" else given
    prune_workspace(root, dry_run=False)
    pruned = prune_workspace(root, runs=[name], dry_run=False)
    assert pruned.runs == ("cam-aa01",)
    assert pruned.stages == ("segmenter-0000000000000002",)
    assert sorted(path.name for path in (root / "runs").iterdir()) == ["cam-aa02", "cam-bb"]
    assert (root / "stages" / "classifier-0000000000000001" / "items" / "a.png").is_file()


def test_unfinished_runs_and_stages_go_when_asked_for(root: Path) -> None:
    (root / "runs" / "cam-old").mkdir()  # an early version's, killed before it wrote a record
    (root / "stages" / "segmenter-0000000000000003" / "stage.json").unlink()
    pruned = prune_workspace(root, unfinished=True, dry_run=False)
    assert pruned.runs == ("cam-bb", "cam-old")
    assert [name[-1] for name in pruned.stages] == ["5", "3", "4"]


def test_unfinished_stages_that_no_record_names_go_when_asked_for(root: Path) -> None:
    name = stage(root, "cams", 8, complete=False)  # of an early version's run, killed before it wrote a record
    assert list_workspace(root).prunable == 7502
    assert name not in prune_workspace(root, dry_run=False).stages
    assert name in prune_workspace(root, unfinished=True, dry_run=False).stages


def test_which_run_is_meant_must_be_clear(root: Path, tmp_path: Path) -> None:
    for given, message in (
        ("cam-a", r"'cam-a' fits several runs: cam-aa02, cam-aa01"),
        ("dsrg", r"unknown run 'dsrg'; choices: cam-bb, cam-aa02, cam-aa01"),
        (str(root / "stages" / "classifier-0000000000000001"), "not a run of this workspace"),
        (str(root / "runs" / ".." / "runs" / "x"), "not a run of this workspace"),
        ("", "unknown run ''"),
    ):
        with pytest.raises(WorkspaceError, match=message):
            prune_workspace(root, runs=[given], dry_run=False)
    assert prune_workspace(root, runs=["cam-b"]).runs == ("cam-bb",)


HALF_DAMAGED = {"method": "cam", "data": "", "settings": {}, "run": {}, "runtime": {}, "stages": [], "metrics": None}


@pytest.mark.parametrize("text", ["{", json.dumps(HALF_DAMAGED)])
def test_a_damaged_record_keeps_everything_until_its_run_goes(root: Path, text: str) -> None:
    (root / "runs" / "cam-aa02" / RUN_FILE).write_text(text)
    listing = list_workspace(root)
    assert [run.state for run in listing.runs] == ["unfinished", "finished", "damaged"]
    assert listing.prunable == 0
    with pytest.raises(WorkspaceError, match=r"cam-aa02.run\.json: damaged.*--run cam-aa02"):
        prune_workspace(root, dry_run=False)
    pruned = prune_workspace(root, runs=["cam-aa02"], dry_run=False)
    assert "segmenter-0000000000000003" in pruned.stages


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "precious.png.part").write_bytes(bytes(10_000))
    (root / "stages" / "cams-0000000000000007").symlink_to(outside)
    (root / "stages" / "cams-0000000000000005" / "linked").symlink_to(outside)
    (root / "runs" / "cam-linked").symlink_to(outside)
    (root / "runs" / "linked.part").symlink_to(outside)
    listing = list_workspace(root)
    assert not any("linked" in run.name for run in listing.runs)
    assert listing.bytes < 20_000
    with pytest.raises(WorkspaceError, match="not a run"):
        prune_workspace(root, runs=[root / "runs" / "cam-linked"])
    prune_workspace(root, runs=["cam-aa01"], unfinished=True, dry_run=False)
    assert (outside / "precious.png.part").stat().st_size == 10_000
    assert (outside / "deep").is_dir()
    assert (root / "stages" / "cams-0000000000000007").is_symlink()
    (root / "stages").rename(tmp_path / "elsewhere")
    (root / "stages").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkspaceError, match="stages: a link"):
        prune_workspace(root)


def test_what_is_not_a_stage_is_left_alone(root: Path) -> None:
    (root / "stages" / "my notes").mkdir()
    (root / "stages" / "my notes" / "text").write_text("keep")
    (root / "other.part").write_text("keep")
    prune_workspace(root, dry_run=False)
    assert (root / "stages" / "my notes" / "text").read_text() == "keep"
    assert (root / "other.part").read_text() == "keep"


def test_a_kill_in_the_middle_leaves_no_half_stage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tag2mask.runs.pruning.shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prune_workspace(root, dry_run=False)
    monkeypatch.undo()
    assert not (root / "stages" / "cams-0000000000000005").exists()
    assert (root / "stages" / "cams-0000000000000005.part").is_dir()
    (root / "stages" / "cams-0000000000000005").mkdir()  # made again meanwhile, and given up once more
    prune_workspace(root, unfinished=True, dry_run=False)
    assert not list((root / "stages").glob("cams-*"))


@pytest.mark.parametrize("verb", [list_workspace, prune_workspace])
def test_what_is_no_workspace_is_told(tmp_path: Path, verb: Any) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "project" / "runs" / "exp1").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / ".lock").touch()  # left by an early version, to which it was given by mistake
    for name, message in (
        ("nowhere", "no such folder"),
        ("file", "a file"),
        ("project", "not a workspace"),
        ("photos", "not a workspace"),
    ):
        with pytest.raises(WorkspaceError, match=f"{name}: {message}"):
            verb(tmp_path / name)


def test_an_empty_workspace(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "stages").mkdir()
    assert list_workspace(tmp_path).bytes == 0
    assert prune_workspace(tmp_path, dry_run=False).text() == "nothing to free"
    with pytest.raises(WorkspaceError, match="unknown run 'x'; choices: none"):
        prune_workspace(tmp_path, runs=["x"])
