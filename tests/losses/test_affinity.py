"""AffinityNet's losses against their formulas."""

import math

import pytest
import torch
from torch import Tensor

from tag2mask.evidence.affinity import BACKGROUND_PAIR, DIFFERENT, FOREGROUND_PAIR, IGNORED_PAIR
from tag2mask.losses.affinity import affinity_losses

NAMES = {
    "affinity_background": (BACKGROUND_PAIR, 0.25),
    "affinity_foreground": (FOREGROUND_PAIR, 0.25),
    "affinity_different": (DIFFERENT, 0.5),
}


def made_up() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.tensor([BACKGROUND_PAIR, FOREGROUND_PAIR, DIFFERENT, IGNORED_PAIR], dtype=torch.uint8)
    affinities = 0.05 + 0.9 * torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    return affinities, kinds[torch.randint(4, affinities.shape, generator=generator)]


def test_each_loss_is_a_weighted_mean_over_its_own_pairs() -> None:
    affinities, pairs = made_up()
    losses = affinity_losses(affinities, pairs)
    assert losses.keys() == NAMES.keys()
    for name, (kind, weight) in NAMES.items():
        own = affinities[pairs == kind].tolist()
        apart = kind == DIFFERENT
        values = [-math.log(1 + 1e-5 - w if apart else w + 1e-5) for w in own]
        total, count = losses[name]
        assert count == len(values)
        assert float(total / count) == pytest.approx(weight * sum(values) / len(values))


def test_gradients_agree_with_finite_differences() -> None:
    affinities, pairs = made_up()
    assert torch.autograd.gradcheck(
        lambda w: tuple(total for total, _ in affinity_losses(w, pairs).values()), affinities.requires_grad_()
    )


@pytest.mark.parametrize("kind", [BACKGROUND_PAIR, FOREGROUND_PAIR, DIFFERENT, IGNORED_PAIR])
def test_a_loss_without_pairs_is_zero_with_zero_gradient(kind: int) -> None:
    """Also where affinities are 0 and 1, as they are outside the grid and between equal pixels."""
    affinities = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3).requires_grad_()
    losses = affinity_losses(affinities, torch.full((1, 1, 1, 3), kind, dtype=torch.uint8))
    for name, (own, _) in NAMES.items():
        total, count = losses[name]
        (gradient,) = torch.autograd.grad(total, affinities, retain_graph=True)
        assert torch.isfinite(gradient).all()
        if own == kind:
            assert count == 3
            assert (gradient != 0).all()
        else:
            assert (total, count) == (0, 0)
            assert not gradient.any()


def test_half_precision_is_computed_in_float32() -> None:
    affinities, pairs = made_up()
    halves = affinity_losses(affinities.bfloat16(), pairs)
    for name, (total, _) in affinity_losses(affinities.bfloat16().float(), pairs).items():
        assert halves[name][0].dtype == torch.float32
        assert torch.equal(halves[name][0], total)
