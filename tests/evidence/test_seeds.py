"""Seeds against plain loops over pixels, classes and superpixels."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tag2mask.errors import DataError
from tag2mask.evidence.seeds import add_background, claimed_labels, superpixel_average, superpixel_seeds

Floats = npt.NDArray[np.float32]
HEIGHT, WIDTH = 4, 6


def random_cams(seed: int, classes: int) -> tuple[Floats, list[int]]:
    """Maps whose values are eighths, so that ties are frequent and sums exact, with class ids in any order."""
    rng = np.random.default_rng(seed)
    ids = [int(c) for c in rng.permutation(9)[:classes] + 1]
    return (rng.integers(0, 9, (classes, HEIGHT, WIDTH)) / 8).astype(np.float32), ids


def random_superpixels(seed: int, count: int) -> npt.NDArray[np.int64]:
    """Ids with gaps, not connected."""
    return np.random.default_rng(seed + 1).integers(0, count, (HEIGHT, WIDTH)) * 2


seeds_and_classes = given(st.integers(0, 10_000), st.integers(1, 4))


@settings(max_examples=60, deadline=None)
@seeds_and_classes
def test_claims_equal_a_plain_loop(seed: int, classes: int) -> None:
    cams, ids = random_cams(seed, classes)
    areas = {c: sum(v > 0.5 for v in cam.ravel()) for c, cam in zip(ids, cams, strict=True)}
    expected = np.full((HEIGHT, WIDTH), 255)
    for y, x in np.ndindex(HEIGHT, WIDTH):
        claiming = [c for c, cam in zip(ids, cams, strict=True) if cam[y, x] > 0.5]
        if claiming:
            expected[y, x] = min(claiming, key=lambda c: (areas[c], c))
    labels = claimed_labels(torch.from_numpy(cams), ids, 0.5)
    assert labels.dtype == torch.uint8
    assert np.array_equal(labels.numpy(), expected)


def test_the_smaller_claim_wins_and_the_lower_class_on_ties() -> None:
    large, small = torch.tensor([1.0, 1.0, 1.0, 0.2]), torch.tensor([0.0, 0.0, 0.21, 1.0])
    assert claimed_labels(torch.stack([large, small])[:, None], [3, 7], 0.2).tolist() == [[3, 3, 7, 7]]
    assert claimed_labels(torch.stack([small, small])[:, None], [7, 3], 0.2).tolist() == [[255, 255, 3, 3]]


def test_no_class_claims_nothing() -> None:
    labels = claimed_labels(torch.zeros(0, 2, 3), [], 0.2)
    assert labels.dtype == torch.uint8
    assert labels.tolist() == [[255] * 3] * 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.integers(1, 12))
def test_background_equals_a_plain_loop(seed: int, limit: float, levels: int) -> None:
    rng = np.random.default_rng(seed)
    evidence = (rng.integers(0, levels, (HEIGHT, WIDTH)) / 16).astype(np.float32)
    labels = rng.choice(np.array([0, 1, 5, 255, 255], np.uint8), (HEIGHT, WIDTH))

    def expected(limit: float, inclusive: bool) -> npt.NDArray[np.uint8]:
        result = labels.copy()
        for at in np.ndindex(labels.shape):
            if labels[at] == 255 and (evidence[at] < limit or (inclusive and evidence[at] == limit)):
                result[at] = 0
        return result

    given_labels, given_evidence = torch.from_numpy(labels), torch.from_numpy(evidence)
    below = add_background(given_labels, given_evidence, below=limit)
    assert np.array_equal(below.numpy(), expected(float(np.float32(limit)), inclusive=False))

    share = add_background(given_labels, given_evidence, share=limit)
    pixels = round(limit * HEIGHT * WIDTH)
    last = sorted(evidence.ravel())[pixels - 1] if pixels else -1
    assert np.array_equal(share.numpy(), expected(last, inclusive=True))
    assert np.array_equal(given_labels.numpy(), labels), "the argument is left as it was"


def test_a_share_is_of_the_whole_photograph() -> None:
    evidence = torch.arange(20.0).view(2, 10)
    labels = torch.full((2, 10), 255, dtype=torch.uint8)
    labels[0, :2] = 4
    seeded = add_background(labels, evidence, share=0.1)
    assert torch.equal(seeded, labels), "the lowest tenth is claimed already"
    assert int((add_background(labels, evidence, share=0.25) == 0).sum()) == 3


def test_equal_evidence_counts_equally() -> None:
    labels = torch.full((3, 3), 255, dtype=torch.uint8)
    assert not add_background(labels, torch.zeros(3, 3), share=0.2).any()
    assert torch.equal(add_background(labels, torch.zeros(3, 3), share=0.0), labels)


@pytest.mark.parametrize("arguments", [{}, {"below": 0.1, "share": 0.1}, {"share": 1.5}])
def test_one_rule_for_background(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="share"):
        add_background(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 2), **arguments)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.sampled_from([0.0, 0.5, 1.0]))
def test_superpixel_seeds_equal_a_plain_loop(seed: int, classes: int, count: int, alpha: float) -> None:
    cams, ids = random_cams(seed, classes)
    superpixels = random_superpixels(seed, count)
    best = cams.max(0)
    z = {s: np.mean([best[at] for at in np.ndindex(best.shape) if superpixels[at] == s]) for s in set(superpixels.flat)}
    least = min(sorted(z), key=lambda s: z[s])
    expected = np.full((HEIGHT, WIDTH), 255)
    for at in np.ndindex(best.shape):
        if best[at] > alpha:
            expected[at] = ids[int(np.argmax(cams[(slice(None), *at)]))]
        elif superpixels[at] == least:
            expected[at] = 0
    labels = superpixel_seeds(torch.from_numpy(cams), ids, torch.from_numpy(superpixels), alpha)
    assert labels.dtype == torch.uint8
    assert np.array_equal(labels.numpy(), expected)
    foreground = superpixel_seeds(torch.from_numpy(cams), ids, torch.from_numpy(superpixels), alpha, background=False)
    assert np.array_equal(foreground.numpy(), np.where(expected == 0, 255, expected))


def test_the_lowest_superpixel_on_ties() -> None:
    # Means of equal values are equal for superpixels of 7 and of 3 pixels, in spite of rounding.
    superpixels = torch.tensor([[2, 2, 2, 2, 2, 2, 2, 1, 1, 1]])
    cams = torch.full((1, 1, 10), 0.1)
    assert superpixel_seeds(cams, [1], superpixels, 0.5).tolist() == [[255] * 7 + [0] * 3]


def test_a_photograph_without_tags_is_background() -> None:
    nothing, superpixels = torch.zeros(0, 2, 3), torch.arange(6).view(2, 3)
    assert superpixel_seeds(nothing, [], superpixels, 0.5).tolist() == [[0] * 3] * 2
    assert superpixel_seeds(nothing, [], superpixels, 0.5, background=False).tolist() == [[255] * 3] * 2
    assert superpixel_average(nothing, superpixels).shape == (0, 2, 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.sampled_from([np.int32, np.uint16, np.uint8]))
def test_averages_equal_a_plain_loop(seed: int, classes: int, count: int, kind: type) -> None:
    cams, _ = random_cams(seed, classes)
    superpixels = random_superpixels(seed, count)
    expected = np.empty_like(cams)
    for c, (y, x) in ((c, at) for c in range(classes) for at in np.ndindex(HEIGHT, WIDTH)):
        expected[c, y, x] = cams[c][superpixels == superpixels[y, x]].mean()
    averages = superpixel_average(torch.from_numpy(cams), torch.from_numpy(superpixels.astype(kind)))
    assert averages.dtype == torch.float32
    assert np.allclose(averages.numpy(), expected, atol=1e-6)


def test_maps_that_do_not_fit() -> None:
    cams, superpixels = torch.zeros(2, 3, 4), torch.zeros(3, 4, dtype=torch.int32)
    with pytest.raises(DataError, match="P = 1"):
        claimed_labels(cams, [1], 0.2)
    with pytest.raises(DataError, match="P = 3"):
        superpixel_seeds(cams, [1, 2, 3], superpixels, 0.5)
    with pytest.raises(DataError, match=r"\(4, 3\)"):
        superpixel_seeds(cams, [1, 2], superpixels.T, 0.5)
    with pytest.raises(DataError, match="negative"):
        superpixel_average(cams, superpixels - 1)
    with pytest.raises(DataError, match="evidence"):
        add_background(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, 3), below=0.1)
