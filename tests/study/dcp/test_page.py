import json
import re

from tests.study.dcp.conftest import Done


def test_everything_is_written(done: Done) -> None:
    out = done.result.folder
    assert {path.name for path in out.iterdir()} == {"report.html", "study.json", "pictures"}
    assert json.loads((out / "study.json").read_text()) == json.loads(json.dumps(done.result.figures))


def test_figures_have_what_was_asked_for(done: Done) -> None:
    figures = done.result.figures
    assert (figures["photographs"], figures["true_masks"]) == (6, 6)
    assert figures["settings"]["patterns"]["blocks"] == ["blocks.2", "blocks.4"]
    assert [row["masks"] for row in figures["masks"]][1:] == ["blocks.2", "blocks.4"]
    for classes in figures["patterns"].values():
        for found in classes.values():
            assert found["shares"] == sorted(found["shares"], reverse=True)
            assert found["cam_correlation"] >= 0
    assert {entry["stage"] for entry in figures["seconds"]} >= {"classifier", "class_patterns", "pixel_planes"}


def test_the_page_has_all_tables_and_pictures(done: Done) -> None:
    text = done.result.report.read_text()
    assert text.count("data:image/") == 5
    assert "http" not in text.replace("http-equiv", "")
    best = done.result.figures["masks"][0]
    assert f"<td>{best['masks']}</td><td>{100 * best['mean_iou']:.1f}</td><td>-</td>" in text
    share = done.result.figures["patterns"]["blocks.4"]["square"]["shares"][0]
    (row,) = re.findall(r"<tr><td>square</td>.*?</tr>", text, flags=re.DOTALL)
    assert row.count("<td>") == 2 + 2 * 3
    assert f"<td>{100 * share:.1f}</td>" in row
    assert "6, 6 of them with a true mask" in text
    assert "chosen on the truth" in text


def test_without_masks_the_page_says_so(unmasked: Done) -> None:
    text = unmasked.result.report.read_text()
    assert unmasked.result.figures["masks"] == []
    assert "Not known: no training photograph has a true mask." in text
    assert "masks have no score, and pixels no colour" in text
    assert "mIoU" not in text
    assert text.count("data:image/") == 5
