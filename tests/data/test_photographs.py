from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data.photographs import find_photographs
from tag2mask.errors import DataError


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    for index, name in enumerate(("a.png", "more/b.jpg", "more/a.bmp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8).repeat(5, 0).repeat(6, 1)
        Image.fromarray(image).save(folder / name)
    (folder / "notes.txt").write_text("no photograph")
    (folder / "._a.png").write_bytes(b"what a Mac leaves on other disks")
    return folder


def test_photographs_are_named_by_their_place(photographs: Path) -> None:
    assert find_photographs([photographs]) == {
        "a": photographs / "a.png",
        "more/a": photographs / "more/a.bmp",
        "more/b": photographs / "more/b.jpg",
    }
    assert find_photographs([photographs / "more" / "b.jpg"]) == {"b": photographs / "more/b.jpg"}
    with pytest.raises(DataError, match=r"a\.bmp and .*a\.png would both"):
        find_photographs([photographs / "a.png", photographs / "more" / "a.bmp"])
    with pytest.raises(DataError, match="nothing: there is no such"):
        find_photographs([photographs / "nothing"])
    (photographs / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no photographs"):
        find_photographs([photographs / "empty"])
    with pytest.raises(DataError, match="lies in the folder for results"):
        find_photographs([photographs / "more"], out=photographs)
