import numpy as np
import numpy.typing as npt
import pytest
from scipy.linalg import eigh

from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence.normalised_cut import DISSIMILAR, normalised_cut_superpixels

Features = npt.NDArray[np.float64]


def transcribed(features: Features, threshold: float) -> list[set[int]]:
    """Equations 3.13 to 3.15 pixel by pixel, with a solver of the generalised problem."""
    remaining = list(range(len(features)))
    found: list[set[int]] = []
    while remaining:
        weights = np.empty((len(remaining), len(remaining)))
        for i, p in enumerate(remaining):
            for j, q in enumerate(remaining):
                similarity = (
                    features[p] @ features[q] / np.sqrt(features[p] @ features[p] * (features[q] @ features[q]))
                )
                weights[i, j] = 1 if p == q or similarity > threshold else DISSIMILAR
        if len(remaining) == 1 or (weights == 1).all():
            found.append(set(remaining))
            break
        degrees = np.diag(weights.sum(axis=1))
        _, vectors = eigh(degrees - weights, degrees)
        second = vectors[:, 1]
        largest = max(abs(second))
        first = next(value for value in second if abs(value) > 0.999999999 * largest)
        second *= np.sign(first)  # signs are arbitrary, and rounding decides nothing
        above = {p for p, value in zip(remaining, second, strict=True) if value > second.mean() + 1e-9 * largest}
        rest = set(remaining) - above
        found.append(min(above, rest, key=len))
        remaining = [p for p in remaining if p not in found[-1]]
    return found


def parts(labels: npt.NDArray[np.int32]) -> list[set[int]]:
    return [set(np.flatnonzero(labels == label).tolist()) for label in range(labels.max() + 1)]


def clustered(rng: np.random.Generator, sizes: tuple[int, ...], noise: float) -> Features:
    centres = rng.normal(size=(len(sizes), 6))
    return np.repeat(centres, sizes, axis=0) + noise * rng.normal(size=(sum(sizes), 6))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_it_equals_the_equations(seed: int, threshold: float) -> None:
    features = clustered(np.random.default_rng(seed), (5, 9, 14), 0.4)
    labels = normalised_cut_superpixels(features, threshold)
    assert labels.dtype == np.int32
    assert parts(labels) == transcribed(features, threshold)


def test_the_smaller_part_is_a_superpixel_and_is_not_cut_again() -> None:
    features = np.repeat(np.eye(3), (2, 4, 9), axis=0)
    assert parts(normalised_cut_superpixels(features, 0.5)) == [set(range(6)), set(range(6, 15))]
    features = np.repeat(np.eye(2), (9, 2), axis=0)
    assert parts(normalised_cut_superpixels(features, 0.5)) == [{9, 10}, set(range(9))]


def test_two_pixels_that_alone_differ_leave_the_others_together() -> None:
    features = np.array([[1.0, 0.0], [0.0, 1.0], *[[1.0, 1.0]] * 5])
    assert parts(normalised_cut_superpixels(features, 0.5)) == [{0}, {1, 2, 3, 4, 5, 6}]


def test_pixels_that_are_all_similar_are_one_superpixel() -> None:
    assert parts(normalised_cut_superpixels(np.ones((7, 3)), 0.9)) == [set(range(7))]
    assert parts(normalised_cut_superpixels(np.ones((1, 3)), 0.9)) == [{0}]


def test_no_pixels_have_no_superpixels() -> None:
    assert normalised_cut_superpixels(np.ones((0, 3)), 0.5).shape == (0,)


def test_pixels_that_are_all_different_still_make_a_partition() -> None:
    labels = normalised_cut_superpixels(np.eye(6), 0.5)
    assert sorted(set(labels.tolist())) == list(range(labels.max() + 1))
    np.testing.assert_array_equal(labels, normalised_cut_superpixels(np.eye(6), 0.5))


def test_a_group_at_the_mean_of_the_eigenvector_stays_together() -> None:
    # a chain of three groups, the outer ones equal: the middle one's entries are 0 but for rounding
    features = np.repeat([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], (8, 5, 8), axis=0)
    for part in parts(normalised_cut_superpixels(features, 0.5)):
        assert all(
            group <= part or not group & part for group in (set(range(8)), set(range(8, 13)), set(range(13, 21)))
        )


def test_a_zero_vector_is_similar_to_itself_alone() -> None:
    features = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert parts(normalised_cut_superpixels(features, 0.5)) == [{0}, {1, 2, 3}]


@pytest.mark.parametrize("features", [np.ones(3), np.ones((3, 2), dtype=np.int64), np.full((3, 2), np.nan)])
def test_other_features_are_refused(features: npt.NDArray[np.float64]) -> None:
    with pytest.raises(DataError, match="features must be"):
        normalised_cut_superpixels(features, 0.5)


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_thresholds_out_of_range_are_refused(threshold: float) -> None:
    with pytest.raises(SettingsError, match="threshold"):
        normalised_cut_superpixels(np.ones((3, 2)), threshold)
