from pathlib import Path

import numpy as np
from PIL import Image

from tag2mask.data.datasets import open_dataset
from tag2mask.study.figures import draw_sheet
from tests.builders import write_shapes


def test_a_sheet_has_each_photograph_before_what_was_made_of_it(tmp_path: Path) -> None:
    samples = open_dataset(write_shapes(tmp_path / "data")).train.samples[:2]
    seen: list[tuple[str, tuple[int, ...]]] = []
    green = np.full((200, 200, 3), (0, 255, 0), np.uint8)

    def cells(sample: object, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> tuple[list[np.ndarray], str]:
        seen.append((sample.id, image.shape))  # type: ignore[attr-defined]
        return [green], "caption"

    draw_sheet(tmp_path / "sheet.jpg", ["green"], samples, cells)
    assert seen == [("shape_00", (48, 64, 3)), ("shape_01", (55, 69, 3))]
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.size == (6 + 2 * 206, 24 + 2 * 224)
        red, green_, _ = np.asarray(sheet)[100, 300].tolist()
        assert (red < 30, green_ > 220) == (True, True)
