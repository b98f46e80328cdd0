import math
import re
from typing import Literal

import pytest
import torch
from torch import Tensor

from tag2mask.errors import DataError, SettingsError
from tag2mask.losses.adaptive_affinity import adaptive_affinity_loss

FOUR = ("same_background", "same_object", "different_objects", "different_background")


def plain(p: Tensor, labels: Tensor, r: Tensor, distance: int, margin: float) -> dict[str, tuple[float, int]]:
    """The formula, pixel by pixel, neighbour by neighbour, class by class."""
    images, classes, height, width = p.shape
    sums, counts = dict.fromkeys(FOUR, 0.0), dict.fromkeys(FOUR, 0)

    def clip(x: float) -> float:
        return min(max(x, 1e-4), 1)

    steps = (-distance, 0, distance)
    around = [(dy, dx) for dy in steps for dx in steps if (dy, dx) != (0, 0)]
    for n in range(images):
        for y in range(height):
            for x in range(width):
                for dy, dx in around:
                    v, w = y + dy, x + dx
                    if not (0 <= v < height and 0 <= w < width):
                        continue
                    a, b = int(labels[n, y, x]), int(labels[n, v, w])
                    if 255 in (a, b):
                        continue
                    d = 0.0
                    for c in range(classes):
                        pu, pv = float(p[n, c, y, x]), float(p[n, c, v, w])
                        d += clip(pv) * math.log(clip(pv) / clip(pu))
                        d += clip(1 - pv) * math.log(clip(1 - pv) / clip(1 - pu))
                    sure = max(float(r[n, y, x]), float(r[n, v, w]))
                    if a == b:
                        name, cost = ("same_object" if a else "same_background"), sure * d
                    else:
                        name = "different_objects" if a and b else "different_background"
                        cost = 2 * max(0.0, margin * sure - d)
                    sums[name] += cost
                    counts[name] += 1
    return {name: (sums[name], counts[name]) for name in FOUR}


def example(seed: int, spread: float = 2.0, size: tuple[int, int] = (6, 7)) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p = (torch.randn(2, 4, *size, generator=generator, dtype=torch.float64) * spread).softmax(1)
    labels = torch.randint(0, 4, (2, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    r = torch.rand(labels.shape, generator=generator, dtype=torch.float64)
    return p, labels.to(torch.uint8), r


@pytest.mark.parametrize("spread", [0.5, 2.0, 8.0])
@pytest.mark.parametrize(("distance", "margin"), [(1, 3.0), (2, 1.0), (4, 3.0)])
def test_equals_a_plain_loop_group_by_group(spread: float, distance: int, margin: float) -> None:
    for seed in range(2):
        p, labels, r = example(seed, spread)
        losses = adaptive_affinity_loss(p, labels, r, distance=distance, margin=margin)
        expected = plain(p, labels, r, distance, margin)
        assert tuple(losses) == FOUR
        for name, (value, count) in losses.items():
            assert float(value) == pytest.approx(expected[name][0], rel=1e-9, abs=1e-9), name
            assert int(count) == expected[name][1], name
        if distance < 4:
            assert all(count > 0 for _, count in expected.values())


def test_published_groups_are_one_mean_over_all_pairs_of_two_labels() -> None:
    p, labels, r = example(0)
    four = adaptive_affinity_loss(p, labels, r, distance=1)
    published = adaptive_affinity_loss(p, labels, r, distance=1, groups="published")
    assert tuple(published) == ("same_background", "same_object", "different")
    for index in range(2):
        for name in ("same_background", "same_object"):
            assert torch.equal(published[name][index], four[name][index])
        together = four["different_objects"][index] + four["different_background"][index]
        assert float(published["different"][index]) == pytest.approx(float(together))


def total(losses: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    means = [value / count.clamp(min=1) for value, count in losses.values()]
    return torch.stack(means).sum()


@pytest.mark.parametrize("groups", ["four", "published"])
def test_gradient_equals_differences(groups: Literal["four", "published"]) -> None:
    # Probabilities inside the clipping, where the loss is smooth but for the hinge.
    p, labels, r = example(1, 1.0, (4, 5))
    p.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: total(adaptive_affinity_loss(x, labels, r, distance=1, groups=groups)), (p,)
    )


def test_both_ends_have_a_gradient_and_confidence_has_none() -> None:
    p = torch.tensor([[[[0.3, 0.6]], [[0.7, 0.4]]]], requires_grad=True)
    r = torch.tensor([[[0.5, 0.9]]], requires_grad=True)
    adaptive_affinity_loss(p, torch.tensor([[[1, 1]]]), r, distance=1)["same_object"][0].backward()
    assert p.grad is not None
    assert (p.grad != 0).all()
    assert r.grad is None


def test_learning_makes_one_label_alike_and_two_labels_different() -> None:
    """Only pairs are known, never a class: what is left apart is where labels differ."""
    labels = torch.tensor([[[0, 0, 0, 1, 1, 1]]])
    scores = torch.randn(1, 2, 1, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.3)
    for _ in range(20):
        optimizer.zero_grad()
        total(adaptive_affinity_loss(scores.softmax(1), labels, torch.ones(1, 1, 6), distance=1)).backward()
        optimizer.step()
    classes = scores.detach().argmax(1)[0, 0].tolist()
    assert classes in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (6, 7)])
def test_maps_smaller_than_the_distance_and_unlabelled_ones_are_zero(size: tuple[int, int]) -> None:
    p, labels, r = example(2, 8.0, size)
    far, unlabelled = labels, torch.full_like(labels, 255)
    for marked, distance in ((far, 9), (unlabelled, 1)):
        leaf = p.clone().requires_grad_()
        losses = adaptive_affinity_loss(leaf, marked, r, distance=distance)
        total(losses).backward()
        assert all(float(value.detach()) == int(count) == 0 for value, count in losses.values())
        assert leaf.grad is not None
        assert not leaf.grad.any()


def test_certain_probabilities_stay_finite() -> None:
    """0 and 1, agreeing and not, are clipped: no infinity, and no gradient of what is beyond."""
    p = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]]], requires_grad=True)
    losses = adaptive_affinity_loss(p, torch.tensor([[[0, 0, 0, 1]]]), torch.ones(1, 1, 4), distance=1)
    # Of four pairs of background two agree; the others differ in both classes and in both of P and 1 - P.
    divergence = 2 * (math.log(1e4) - 1e-4 * math.log(1e4))
    assert float(losses["same_background"][0].detach()) == pytest.approx(2 * divergence, rel=1e-5)
    assert float(losses["different_background"][0].detach()) == pytest.approx(2 * 2 * 3)
    total(losses).backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_float32_under_autocast(dtype: torch.dtype) -> None:
    p, labels, r = example(3)
    half = p.to(dtype)
    with torch.autocast("cpu", dtype):
        losses = adaptive_affinity_loss(half, labels, r.to(dtype), distance=1)
    expected = adaptive_affinity_loss(half.float(), labels, r.to(dtype).float(), distance=1)
    for name, (value, count) in losses.items():
        assert value.dtype == count.dtype == torch.float32
        assert torch.equal(value, expected[name][0])


def test_bad_arguments() -> None:
    p, labels, r = example(0)
    with pytest.raises(DataError, match=re.escape("(2, 4, 6, 7), labels (2, 6, 6)")):
        adaptive_affinity_loss(p, labels[..., 1:], r)
    with pytest.raises(SettingsError, match="distance must be 1 or more, not 0"):
        adaptive_affinity_loss(p, labels, r, distance=0)
    with pytest.raises(SettingsError, match=r"groups.*four"):
        adaptive_affinity_loss(p, labels, r, groups="three")  # type: ignore[arg-type]
