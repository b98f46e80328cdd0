"""Pair affinities against a loop over pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tag2mask.data.neighbours import pair_offsets
from tag2mask.errors import DataError
from tag2mask.evidence.affinity import (
    BACKGROUND_PAIR,
    DIFFERENT,
    FOREGROUND_PAIR,
    IGNORED_PAIR,
    confident_labels,
    pair_affinities,
    pair_labels,
)


def by_definition(features: Tensor, radius: int) -> Tensor:
    """exp(-mean |f_i - f_j|), pair by pair; differentiable, (offsets, H, W)."""
    _, height, width = features.shape
    nothing = 0 * features.sum()  # part of the graph, also where there is no pair at all
    rows = []
    for dy, dx in pair_offsets(radius):
        for y in range(height):
            for x in range(width):
                if y + dy < height and 0 <= x + dx < width:
                    rows.append(torch.exp(-(features[:, y, x] - features[:, y + dy, x + dx]).abs().mean()))
                else:
                    rows.append(nothing)
    return torch.stack(rows).reshape(-1, height, width) if rows else features[:0]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_values_and_gradients_are_the_definitions(
    height: int, width: int, channels: int, radius: int, seed: int
) -> None:
    features = normal(channels, height, width, seed=seed)
    features[..., :1] = 0.5  # ties: there the derivative of the absolute difference counts as 0
    ours, plain = features.clone().requires_grad_(), features.clone().requires_grad_()
    affinities, expected = pair_affinities(ours, radius), by_definition(plain, radius)
    torch.testing.assert_close(affinities, expected)
    weights = normal(*expected.shape, seed=seed + 1)
    (affinities * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_gradients_agree_with_finite_differences() -> None:
    features = normal(2, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: pair_affinities(f, 3), (features,))


def test_leading_dimensions_are_a_batch() -> None:
    features = normal(2, 3, 4, 5, 6).float()
    affinities = pair_affinities(features, 3)
    assert affinities.shape == (2, 3, len(pair_offsets(3)), 5, 6)
    torch.testing.assert_close(affinities[1, 2], pair_affinities(features[1, 2], 3))


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    features = normal(8, 5, 6).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        affinities = pair_affinities(features, 3)
    assert affinities.dtype == torch.float32
    torch.testing.assert_close(affinities, pair_affinities(features.float(), 3))


def test_distant_features_have_affinity_zero_and_nan_stays_with_its_pixel() -> None:
    features = torch.tensor([[[0.0, 1000.0, 1000.0, float("nan")]]])
    affinities = pair_affinities(features, 2)[pair_offsets(2).index((0, 1)), 0]
    torch.testing.assert_close(affinities, torch.tensor([0.0, 1.0, float("nan"), 0.0]), equal_nan=True)


def test_the_graph_keeps_no_differences() -> None:
    saved: list[int] = []

    def packed(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    features = normal(16, 12, 13).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
        affinities = pair_affinities(features, 5)
    assert sum(saved) <= features.numel() + affinities.numel()


@pytest.mark.parametrize("features", [torch.zeros(3, 4), torch.zeros(3, 4, 4, dtype=torch.int64), torch.zeros(0, 4, 4)])
def test_features_of_another_shape_or_type_are_refused(features: Tensor) -> None:
    with pytest.raises(DataError, match=r"features must be floats of shape \(\.\.\., K, H, W\)"):
        pair_affinities(features, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_cpus_affinities() -> None:
    features = normal(8, 9, 11).float()
    torch.testing.assert_close(pair_affinities(features.to("cuda"), 5).cpu(), pair_affinities(features, 5))


def test_confident_labels_are_what_both_backgrounds_leave() -> None:
    #                         sure   sure         neither    background
    #                         class  background              wins a clash
    amplified = torch.tensor([[3, 7, 0, 0, 0, 3]])
    suppressed = torch.tensor([[3, 3, 0, 0, 3, 0]])
    found = confident_labels(amplified, suppressed)
    assert found.dtype == torch.uint8
    assert found.tolist() == [[3, 7, 0, 0, 255, 0]]


GRID = torch.tensor([[0, 0, 1, 1], [0, 255, 1, 2], [0, 0, 2, 2], [255, 0, 2, 1]], dtype=torch.uint8)
B, F, D, X = BACKGROUND_PAIR, FOREGROUND_PAIR, DIFFERENT, IGNORED_PAIR


def test_pair_labels_of_a_grid_of_four_by_four() -> None:
    """Radius 2: the pairs to the right, to the lower left, below and to the lower right, read off by hand."""
    assert pair_offsets(2) == ((0, 1), (1, -1), (1, 0), (1, 1))
    expected = [
        [[B, D, F, X], [X, X, D, X], [B, D, F, X], [X, D, D, X]],
        [[X, B, X, F], [X, X, D, F], [X, X, D, F], [X, X, X, X]],
        [[B, X, F, D], [B, X, D, F], [X, B, F, D], [X, X, X, X]],
        [[X, D, D, X], [B, X, D, X], [B, D, D, X], [X, X, X, X]],
    ]
    found = pair_labels(GRID, 2)
    assert found.dtype == torch.uint8
    assert found.tolist() == expected


def test_pair_labels_by_definition_on_a_batch() -> None:
    labels = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 7, 9), generator=torch.Generator().manual_seed(1))]
    found = pair_labels(labels, 5)
    assert found.shape == (2, 34, 7, 9)
    for image, (index, (dy, dx)), y, x in (
        (image, offset, y, x)
        for image in range(2)
        for offset in enumerate(pair_offsets(5))
        for y in range(7)
        for x in range(9)
    ):
        expected = X
        if y + dy < 7 and 0 <= x + dx < 9:
            one, other = int(labels[image, y, x]), int(labels[image, y + dy, x + dx])
            if 255 not in (one, other):
                expected = (B if one == 0 else F) if one == other else D
        assert found[image, index, y, x] == expected


def test_pair_labels_of_a_grid_narrower_than_the_radius() -> None:
    assert (pair_labels(torch.zeros(1, 1, dtype=torch.uint8), 5) == IGNORED_PAIR).all()
