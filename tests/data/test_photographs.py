from pathlib import Path

import pytest

from tag2mask.data.photographs import find_photographs
from tag2mask.errors import DataError
from tests.builders import write_photographs


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs")


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
