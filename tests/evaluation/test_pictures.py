from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.evaluation.pictures import contact_sheet, evenly_spread, plot_lines, save_sheet

RED, BLUE = (np.full((30, 60, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))


@pytest.mark.parametrize(("count", "total"), [(3, 10), (24, 47), (1, 9), (5, 5), (9, 4), (1000, 12031), (7, 1)])
def test_few_of_many_are_evenly_spread(count: int, total: int) -> None:
    found = evenly_spread(count, total)
    assert len(found) == len(set(found)) == min(count, total)
    assert 0 <= found[0] <= found[-1] < total
    # As much room before the first and after the last.
    gaps = np.diff([-found[0] - 1, *found, 2 * total - found[-1] - 1])
    assert gaps.max() - gaps.min() <= 2
    assert evenly_spread(0, total) == []


def colours(sheet: Image.Image, left: int, top: int, width: int, height: int) -> set[tuple[int, ...]]:
    part = np.asarray(sheet)[top : top + height, left : left + width]
    return {tuple(colour) for colour in part.reshape(-1, 3).tolist()}


def test_captions_have_letters_of_many_languages() -> None:
    def drawn(caption: str) -> bytes:
        return contact_sheet(["photograph"], [[RED]], [caption]).tobytes()

    assert len({drawn(letter) for letter in "äöüéñжλ"}) == 7  # no two of them the same empty box


def test_pictures_stand_in_rows_and_columns() -> None:
    small = np.full((10, 10, 3), (0, 128, 0), np.uint8)
    sheet = contact_sheet(["photograph", "mask"], [[RED, BLUE], [BLUE, small]], ["one", "two"], cell=40)
    # A margin of 6 around cells, a line of 18 for the titles and for each row's caption.
    assert sheet.size == (6 + 2 * 46, 24 + 2 * 64)
    assert colours(sheet, 6, 42, 40, 20) == {(255, 0, 0)}  # shrunk to the cell, its aspect kept
    assert colours(sheet, 6, 62, 40, 20) == {(255, 255, 255)}
    assert colours(sheet, 52, 42, 40, 20) == {(0, 0, 255)}
    assert colours(sheet, 6, 106, 40, 20) == {(0, 0, 255)}
    assert colours(sheet, 52, 106, 10, 10) == {(0, 128, 0)}  # not enlarged
    for top in (0, 24, 88):  # titles and captions are written
        assert len(colours(sheet, 6, top, 80, 18)) > 1


def test_a_row_without_its_caption_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        contact_sheet(["photograph"], [[RED], [BLUE]], ["one"])


def test_sheets_and_charts_are_written_whole(tmp_path: Path) -> None:
    sheet = contact_sheet(["photograph"], [[RED]], ["one"])
    save_sheet(tmp_path / "new" / "sheet.jpg", sheet)
    with Image.open(tmp_path / "new" / "sheet.jpg") as saved:
        assert (saved.format, saved.size) == ("JPEG", sheet.size)
    lines = {"CAM": ([0.1, 0.2, 0.3], [40.0, 45.0, 41.0])}
    plot_lines(tmp_path / "one.png", lines, x="threshold", y="mIoU", title="curve")
    plot_lines(tmp_path / "two.png", {**lines, "other": ([0.1, 0.3], [10.0, 20.0])}, x="a", y="b", title="curves")
    plot_lines(tmp_path / "none.png", {}, x="step", y="loss", title="nothing yet")
    pictures = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("one", "two", "none")]
    assert all(picture.shape[1] > 300 for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "none.png", "one.png", "two.png"]
