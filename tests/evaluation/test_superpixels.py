"""Superpixel metrics against their equations, pixel by pixel."""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.errors import DataError, SettingsError
from tag2mask.evaluation.superpixels import SuperpixelMeans, SuperpixelScores, score_superpixels

Pixels = set[tuple[int, int]]
UNKNOWN = 255


def boundary(labels: npt.NDArray[Any], skipped: Pixels) -> Pixels:
    """Pixels that have one of four neighbours of another label, where neither is skipped."""
    height, width = labels.shape
    found = set()
    for y, x in itertools.product(range(height), range(width)):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < height and 0 <= u < width
            if inside and not {(y, x), (v, u)} & skipped and labels[y, x] != labels[v, u]:
                found.add((y, x))
    return found


def near_share(some: Pixels, others: Pixels, tolerance: float) -> float | None:
    near = [p for p in some if min((math.dist(p, q) for q in others), default=math.inf) < tolerance]
    return len(near) / len(some) if some else None


def brute_force(
    superpixels: npt.NDArray[Any], truth: npt.NDArray[Any], tolerance: float, unlabelled_borders: bool
) -> SuperpixelScores:
    """Equations 3.9 to 3.12 with sets of pixels."""
    places = list(itertools.product(*map(range, truth.shape)))
    unknown = {p for p in places if truth[p] == UNKNOWN}
    labelled = [p for p in places if p not in unknown]
    parts = [{p for p in labelled if superpixels[p] == k} for k in np.unique(superpixels)]
    classes = [{p for p in labelled if truth[p] == c} for c in np.unique(truth) if c != UNKNOWN]
    ue = sum(min(len(part & its_class), len(part - its_class)) for part in parts for its_class in classes)
    best = sum(max(len(part & its_class) for its_class in classes) for part in parts) if classes else 0
    of_truth = boundary(truth, set()) - unknown if unlabelled_borders else boundary(truth, unknown)
    of_parts = boundary(superpixels, set())
    return SuperpixelScores(
        undersegmentation_error=ue / len(labelled) if labelled else None,
        boundary_recall=near_share(of_truth, of_parts, tolerance),
        boundary_precision=near_share(of_parts - unknown, of_truth, tolerance),
        achievable_accuracy=best / len(labelled) if labelled else None,
        superpixels=len(parts),
    )


@settings(deadline=None, max_examples=200)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    blocks=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    tolerance=st.sampled_from([0.5, 1.0, 1.01, math.sqrt(2), 1.5, 2.0, 2.5, 3.0, 5.0, 100.0]),
    unlabelled_borders=st.booleans(),
    numbers=st.sampled_from([[0, 1, 2], [5, 0, 77], [2**40, 3, 2**40 + 1]]),
)
def test_equals_brute_force(
    height: int, width: int, blocks: int, seed: int, tolerance: float, unlabelled_borders: bool, numbers: list[int]
) -> None:
    generator = np.random.default_rng(seed)
    coarse = (-(-height // blocks), -(-width // blocks))
    square = np.ones((blocks, blocks), dtype=np.int64)
    superpixels = np.kron(generator.choice(numbers, coarse), square)[:height, :width]
    truth = generator.choice(np.uint8([0, 0, 2, 7, UNKNOWN]), (height, width))
    scores = score_superpixels(superpixels, truth, tolerance=tolerance, unlabelled_borders=unlabelled_borders)
    assert scores == brute_force(superpixels, truth, tolerance, unlabelled_borders)


def test_by_hand() -> None:
    """Two superpixels of 3x4 pixels; the truth's border lies one column further right."""
    superpixels = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 3, axis=0)
    truth = np.repeat([[0, 0, 0, 0, 0, 3, 3, 3]], 3, axis=0)
    scores = score_superpixels(superpixels, truth)
    assert scores == SuperpixelScores(6 / 24, 1.0, 1.0, 21 / 24, 2)
    # boundaries are columns 3, 4 and 4, 5: half of each meet exactly, and a distance of 1 is not below 1
    assert score_superpixels(superpixels, truth, tolerance=1).boundary_recall == 0.5
    assert score_superpixels(superpixels, truth, tolerance=1).boundary_precision == 0.5


def test_distance_is_strictly_below_the_tolerance() -> None:
    superpixels, truth = np.zeros((1, 12), int), np.zeros((1, 12), int)
    superpixels[0, 4:], truth[0, 7:] = 1, 1  # boundaries at 3, 4 and at 6, 7
    assert score_superpixels(superpixels, truth, tolerance=2).boundary_recall == 0
    assert score_superpixels(superpixels, truth, tolerance=2.1).boundary_recall == 0.5
    assert score_superpixels(superpixels, truth, tolerance=3.1).boundary_recall == 1


def test_perfect_superpixels() -> None:
    truth = np.zeros((20, 30), np.uint8)
    truth[5:12, 3:14], truth[15:, 20:] = 4, 9
    assert score_superpixels(truth, truth) == SuperpixelScores(0.0, 1.0, 1.0, 1.0, 3)
    pixels = np.arange(600).reshape(20, 30)
    finest = score_superpixels(pixels, truth)
    assert (finest.undersegmentation_error, finest.achievable_accuracy, finest.boundary_recall) == (0, 1, 1)


def test_borders_of_unlabelled_bands() -> None:
    """VOC's masks: object, band, background."""
    truth = np.array([[1, 1, 1, UNKNOWN, UNKNOWN, 0, 0, 0]])
    superpixels = np.array([[0, 0, 0, 1, 1, 1, 1, 1]])
    assert score_superpixels(superpixels, truth).boundary_recall is None
    scores = score_superpixels(superpixels, truth, unlabelled_borders=True)
    assert (scores.boundary_recall, scores.boundary_precision) == (0.5, 1.0)  # columns 2 and 5; columns 2 and 3


def test_undefined_scores() -> None:
    halves = np.repeat([[0, 0, 1, 1]], 4, axis=0)
    nothing = np.full((4, 4), UNKNOWN, np.uint8)
    assert score_superpixels(halves, nothing) == SuperpixelScores(None, None, None, None, 2)
    one = np.zeros((4, 4), int)
    assert score_superpixels(halves, one) == SuperpixelScores(0, None, 0, 1, 2)
    assert score_superpixels(one, halves) == SuperpixelScores(1, 0, None, 0.5, 1)
    assert score_superpixels(one, one) == SuperpixelScores(0, None, None, 1, 1)
    empty = np.zeros((0, 4), int)
    assert score_superpixels(empty, empty) == SuperpixelScores(None, None, None, None, 0)
    assert score_superpixels([[7]], [[3]]) == SuperpixelScores(0, None, None, 1, 1)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint64])
def test_types_and_layouts(kind: type) -> None:
    generator = np.random.default_rng(0)
    superpixels, truth = generator.integers(0, 9, (12, 17)), generator.choice([0, 1, UNKNOWN], (12, 17))
    expected = score_superpixels(superpixels, truth)
    assert score_superpixels(superpixels.astype(kind), truth.astype(kind)) == expected
    known = np.where(truth == UNKNOWN, 0, truth)
    assert score_superpixels(superpixels, known.astype(np.int8)) == score_superpixels(superpixels, known)
    assert score_superpixels(np.asfortranarray(superpixels), truth[::-1][::-1]) == expected


def test_means_over_images() -> None:
    halves = np.repeat([[0, 0, 1, 1]], 4, axis=0)
    first, second = SuperpixelMeans(), SuperpixelMeans()
    first.add(halves, halves)
    first.add(np.zeros((4, 4), int), halves, tolerance=1)
    second.add(halves, np.full((4, 4), UNKNOWN))
    first.merge(second)
    assert first.scores() == SuperpixelScores(0.5, 0.5, 1.0, 0.75, 5 / 3)
    assert SuperpixelMeans(reversed(first.images)).scores() == first.scores()
    assert second.scores().boundary_recall is None
    assert first.scores().to_dict()["achievable_accuracy"] == 0.75
    with pytest.raises(DataError, match="nothing to average"):
        SuperpixelMeans().scores()


@pytest.mark.parametrize(
    ("superpixels", "truth", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"superpixels of shape \(2, 3\) and truth of shape \(3, 2\)"),
        (np.zeros(3, int), np.zeros(3, int), r"both must be \(H, W\)"),
        (np.zeros((1, 1)), np.zeros((1, 1), int), "superpixels must be integers, not float64"),
        (np.zeros((1, 1), int), np.zeros((1, 1), bool), "truth must be integers, not bool"),
        (np.full((1, 1), -1), np.zeros((1, 1), int), "superpixels must be 0 or more"),
        (np.zeros((1, 1), int), np.full((1, 1), 256), "truth must be 0 or more and at most 255"),
    ],
)
def test_wrong_inputs(superpixels: npt.NDArray[Any], truth: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_superpixels(superpixels, truth)


@pytest.mark.parametrize("tolerance", [0, -1.0, math.nan, math.inf])
def test_impossible_tolerance(tolerance: float) -> None:
    with pytest.raises(SettingsError, match="tolerance must be above 0 and finite, not"):
        score_superpixels([[0]], [[0]], tolerance=tolerance)
