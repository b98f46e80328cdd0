from PIL import Image

from tests.study.superpixels.conftest import Done

EXPECTED = {
    "undersegmentation-error.png",
    "achievable-accuracy.png",
    "precision-recall.png",
    "rules-undersegmentation-error.png",
    "rules-achievable-accuracy.png",
    "examples-few.jpg",
    "examples-many.jpg",
    "features.jpg",
    "rules-order.jpg",
    "rules-ncut.jpg",
    "thresholds.jpg",
    "positiveness.jpg",
}


def test_every_figure_is_drawn(done: Done) -> None:
    pictures = sorted((done.result.folder / "pictures").iterdir())
    assert {path.name for path in pictures} == EXPECTED
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > 300


def test_sheets_have_a_row_per_photograph_and_a_column_per_contender(done: Done) -> None:
    with Image.open(done.result.folder / "pictures" / "thresholds.jpg") as picture:
        columns, rows = 1 + 4, 2
        assert picture.size == (6 + columns * 206, 24 + rows * 224)


def test_superpixels_found_first_are_bright(done: Done) -> None:
    with Image.open(done.result.folder / "pictures" / "thresholds.jpg") as picture:
        greys = picture.convert("L").crop((6 + 4 * 206, 42, 6 + 5 * 206, 42 + 140)).getextrema()
    assert greys[0] < 60 < 200 < greys[1]
