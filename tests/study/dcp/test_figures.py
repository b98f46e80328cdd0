from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tag2mask.study.dcp.figures import kinds_of_pixels, plot_planes, plot_variance
from tag2mask.study.dcp.stages import PixelPlane
from tests.study.dcp.conftest import Done


@pytest.fixture
def charts(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Charts as they are when they are written."""
    seen: list[Figure] = []
    monkeypatch.setattr("tag2mask.study.dcp.figures._save", lambda chart, path: seen.append(chart))
    return seen


def test_every_figure_is_drawn(done: Done) -> None:
    pictures = sorted((done.result.folder / "pictures").iterdir())
    assert [path.name for path in pictures] == [
        "masks.jpg",
        "plane-disc.png",
        "plane-square.png",
        "variance-blocks-2.png",
        "variance-blocks-4.png",
    ]
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert picture.width > 300


def test_the_sheet_of_masks_has_a_column_per_block_and_one_of_the_truth(done: Done, unmasked: Done) -> None:
    for study, columns in ((done, 2 + 2), (unmasked, 1 + 2)):
        with Image.open(study.result.folder / "pictures" / "masks.jpg") as picture:
            assert picture.size == (6 + columns * 206, 24 + 2 * 224)


def _labels(chart: Figure) -> list[str]:
    (legend,) = chart.legends
    return [text.get_text() for text in legend.get_texts()]


def _shares(count: int) -> dict[str, Sequence[float]]:
    return {f"class {index}": [0.5 / (index + 1), 0.1, 0.0] for index in range(count)}


def test_as_many_classes_as_there_are_styles_have_a_line_of_their_own(charts: list[Figure]) -> None:
    lines = _shares(20)
    plot_variance(Path("a.png"), lines, list(lines), title="a")
    (axes,) = charts[0].axes
    drawn = axes.get_lines()
    assert len({(line.get_color(), str(line.get_linestyle()), str(line._dash_pattern)) for line in drawn}) == 20  # type: ignore[attr-defined]
    assert _labels(charts[0]) == list(lines)
    # A share of 0 has no place on the axis.
    np.testing.assert_array_equal(drawn[0].get_ydata(), [50, 10, np.nan])
    assert axes.get_yscale() == "log"


def test_other_classes_are_grey_and_named_once(charts: list[Figure]) -> None:
    lines = _shares(80)
    plot_variance(Path("a.png"), lines, ["class 7", "class 70"], title="a")
    assert sorted(_labels(charts[0])) == ["class 7", "class 70", "other classes"]
    assert len(charts[0].axes[0].get_lines()) == 80


def test_pixels_are_told_apart_by_what_they_are_to_the_class(charts: list[Figure]) -> None:
    truth = np.array([0, 2, 1, 255, 2], dtype=np.uint8)
    np.testing.assert_array_equal(kinds_of_pixels(truth, 2), [1, 3, 2, 0, 3])
    points = np.random.default_rng(0).normal(size=(3, 1, 5, 2)).astype(np.float32)
    plot_planes(Path("a.png"), PixelPlane(np.array([2]), truth, points), 2, ["a", "b", "c"], title="d")
    assert len(charts[0].axes) == 3
    assert _labels(charts[0]) == ["object of the class", "other object", "background", "no true mask"]
    objects = charts[0].axes[1].collections[-1].get_offsets()
    np.testing.assert_allclose(np.asarray(objects), points[1, 0, [1, 4]])
