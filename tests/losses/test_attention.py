import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.losses.attention import attention_loss, attention_map, draw_classes, mask_image

RED, BLUE = 1, 2
TAGS = torch.tensor([[True, True]])


class ColourClassifier(nn.Module):
    """Knows red from blue: the share of an image that is far more of one colour than of the mean."""

    def __init__(self, sharpness: float = 20.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, images: Tensor) -> Tensor:
        found = torch.stack([images[:, 0] - images[:, 2], images[:, 2] - images[:, 0]], 1)
        seen = torch.sigmoid(self.sharpness * (found - 0.5)).mean((2, 3))
        return 200 * (seen - 0.03)


def squares(side: int = 32) -> tuple[Tensor, Tensor]:
    """A red and a blue square on the mean colour, (1, 3, H, W), and the true masks as H, (1, 3, H, W)."""
    image, truth = torch.zeros(1, 3, side, side), torch.zeros(1, 3, side, side)
    image[0, 0, 4:16, 4:16] = truth[0, RED, 4:16, 4:16] = 1
    image[0, 2, 16:28, 16:28] = truth[0, BLUE, 16:28, 16:28] = 1
    truth[:, 0] = 1 - truth[:, 1:].sum(1)
    return image, truth


def mean_loss(maps: Tensor) -> float:
    """The attention loss over all four draws of two classes."""
    image, _ = squares()
    chosen = torch.cartesian_prod(*[torch.tensor([False, True])] * 2)[:, None]
    masked = mask_image(image, attention_map(maps, chosen))
    logits = ColourClassifier()(masked.flatten(0, 1)).unflatten(0, (4, 1))
    total, count = attention_loss(logits, TAGS, chosen)
    return float(total / count)


def test_the_true_mask_costs_least() -> None:
    """Beside no mask at all, one of the whole image for both classes, and classes that changed places."""
    _, truth = squares()
    empty, full = torch.zeros_like(truth), torch.zeros_like(truth)
    empty[:, 0] = 1
    full[:, 1:] = 0.5
    everything = torch.zeros_like(truth)
    everything[:, RED] = 1
    half = truth.clone()
    half[:, RED, :, 10:] = 0
    perfect = mean_loss(truth)
    assert perfect < 0.05
    others = {"empty": empty, "full": full, "one class": everything, "swapped": truth[:, [0, 2, 1]], "half": half}
    for name, maps in others.items():
        assert mean_loss(maps) > 10 * perfect, name


def test_equals_the_formulas() -> None:
    """Eq. 2.8 to 2.10 as printed, path by path and image by image."""
    torch.manual_seed(0)
    image, maps = torch.randn(2, 3, 4, 6), torch.randn(2, 4, 4, 6).softmax(1)
    present = torch.tensor([[True, False, True], [False, True, False]])
    chosen = torch.tensor([[[True, False, True], [False, False, False]], [[False, False, True], [False, True, False]]])
    logits = torch.randn(2, 2, 3)
    attention = attention_map(maps, chosen)
    masked = mask_image(image, attention)
    expected = 0.0
    for path in range(2):
        for n in range(2):
            kept = torch.ones(4, 6)
            for c in range(3):
                if chosen[path, n, c]:
                    kept = kept - maps[n, c + 1]
            assert torch.allclose(attention[path, n], kept, atol=1e-6)
            assert torch.allclose(masked[path, n], image[n] * kept, atol=1e-6)
            classes = [c for c in range(3) if present[n, c]]
            for c in classes:
                target = float(present[n, c]) * (1 - float(chosen[path, n, c]))
                score = float(logits[path, n, c].sigmoid())
                expected -= (target * np.log(score) + (1 - target) * np.log(1 - score)) / len(classes) / 2
    total, count = attention_loss(logits, present, chosen)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert int(count) == 2


def test_one_path_needs_no_dimension_of_its_own() -> None:
    torch.manual_seed(0)
    maps, chosen, logits = (
        torch.randn(2, 3, 4, 4).softmax(1),
        torch.tensor([[True, False], [True, True]]),
        torch.randn(2, 2),
    )
    assert torch.equal(attention_map(maps, chosen), attention_map(maps, chosen[None])[0])
    present = torch.ones(2, 2, dtype=torch.bool)
    alone, together = attention_loss(logits, present, chosen), attention_loss(logits[None], present, chosen[None])
    assert torch.equal(alone[0], together[0])
    assert torch.equal(alone[1], together[1])


def test_maps_of_another_resolution_are_brought_to_the_image() -> None:
    torch.manual_seed(0)
    image, maps, chosen = (
        torch.randn(2, 3, 8, 12),
        torch.randn(2, 4, 2, 3).softmax(1),
        torch.tensor([[True, False, True]] * 2),
    )
    upsampled = F.interpolate(maps, size=(8, 12), mode="bilinear", align_corners=False)
    expected = mask_image(image, attention_map(upsampled, chosen))
    assert torch.allclose(mask_image(image, attention_map(maps, chosen)), expected, atol=1e-5)


def test_gradient_with_respect_to_the_maps() -> None:
    """Numerically, through a smooth classifier and the interpolation."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    network.double().requires_grad_(False)
    image = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    maps = torch.randn(2, 3, 3, 3, dtype=torch.float64).softmax(1).requires_grad_()
    present = torch.tensor([[True, True], [False, True]])
    chosen = torch.tensor([[[True, False], [False, True]], [[True, True], [False, False]]])

    def loss(h: Tensor) -> Tensor:
        logits = network(mask_image(image, attention_map(h, chosen)).flatten(0, 1)).unflatten(0, (2, 2))
        return attention_loss(logits, present, chosen)[0]

    assert torch.autograd.gradcheck(loss, (maps,))
    (gradient,) = torch.autograd.grad(loss(maps), maps)
    assert gradient[:, 1:].any()
    assert not gradient[:, 0].any()


def test_autocast_leaves_the_attention_map_in_single_precision() -> None:
    torch.manual_seed(0)
    scores, image, chosen = torch.randn(2, 4, 4, 4), torch.randn(2, 3, 16, 16), torch.rand(2, 2, 3) < 0.5

    def made(half: bool) -> tuple[Tensor, Tensor]:
        given = scores.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            masked = mask_image(image, attention_map(given.softmax(1), chosen))
        masked.square().sum().backward()
        assert given.grad is not None
        return masked, given.grad

    assert all(torch.equal(single, found) for single, found in zip(made(False), made(True), strict=True))


def test_an_image_without_tags_adds_nothing() -> None:
    logits = torch.randn(2, 1, 3, requires_grad=True)
    nothing = torch.zeros(2, 1, 3, dtype=torch.bool)
    total, count = attention_loss(logits, nothing[0], nothing)
    (total / count).backward()
    assert total.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def generators(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def test_draws_are_an_images_own() -> None:
    """Whatever else is in its batch, and wherever it is."""
    present = torch.ones(3, 5, dtype=torch.bool)
    batch = draw_classes(present, generators(7, 8, 9), 4)
    assert batch.shape == (4, 3, 5)
    assert torch.equal(draw_classes(present[:1], generators(9), 4)[:, 0], batch[:, 2])
    assert not torch.equal(batch[:, 0], batch[:, 1])


def test_draws_are_of_present_classes_each_with_one_half() -> None:
    present = torch.tensor([[True, False, True]])
    drawn = draw_classes(present, generators(3), 2000)[:, 0]
    assert not drawn[:, 1].any()
    assert torch.allclose(drawn.float().mean(0)[[0, 2]], torch.tensor(0.5), atol=0.04)
    both = drawn[:, 0] & drawn[:, 2]
    assert float(both.float().mean()) == pytest.approx(0.25, abs=0.04)
