"""Gradient saliency against differences of the scores, SciPy's median filter, and what it must leave alone."""

import pytest
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from tag2mask.errors import SettingsError
from tag2mask.evidence.gradient import gradient_saliency
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier


def classifier(name: str = "tf_efficientnet_lite0", stride: int = 16, block: str | None = None) -> Classifier:
    torch.manual_seed(0)
    return Classifier(create_backbone(name, output_stride=stride, block=block, weights="none"), 3).eval()


def images(*size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def test_it_is_the_largest_change_of_the_scores() -> None:
    """By differences: every feature is moved a little, and the scores' sum moves with it."""
    network = classifier(block="blocks.2").double()
    shown = images(8, 16, batch=1).double()
    with torch.no_grad():
        features = network.backbone.encode(shown, "blocks.1")
        step = 1e-4

        def total(moved: Tensor) -> float:
            last = network.backbone.forward_from(moved, "blocks.1")
            return float(network.head(last).mean((2, 3)).sum())

        slopes = torch.zeros_like(features)
        for place in range(features.numel()):
            moved = features.clone()
            moved.view(-1)[place] += step
            up = total(moved)
            moved.view(-1)[place] -= 2 * step
            slopes.view(-1)[place] = (up - total(moved)) / (2 * step)
    expected = slopes[0].abs().amax(0)
    found = gradient_saliency(network, shown, "blocks.1", median=1)
    assert found.shape == (1, 2, 4)
    torch.testing.assert_close(found[0].double(), expected / expected.max(), atol=1e-3, rtol=0)
    assert found.std() > 0.01


@pytest.mark.parametrize("side", [3, 5])
def test_the_median_is_scipys(side: int) -> None:
    network, shown = classifier(), images(64, 96)
    plain = gradient_saliency(network, shown, "blocks.1", median=1).numpy()
    found = gradient_saliency(network, shown, "blocks.1", median=side)
    for map_, own in zip(found.numpy(), plain, strict=True):
        expected = median_filter(own, side, mode="nearest")
        torch.testing.assert_close(torch.from_numpy(map_), torch.from_numpy(expected / expected.max()))


@pytest.mark.parametrize(
    ("name", "stride", "block"),
    [
        ("tf_efficientnet_lite0", 16, "stem"),
        ("tf_efficientnet_lite0", 16, "blocks.3"),
        ("tf_efficientnet_lite0", 16, "conv_head"),
        ("vgg11", 8, "conv4"),
        ("resnet18", 16, "layer3"),
    ],
)
def test_every_chain_at_its_blocks(name: str, stride: int, block: str) -> None:
    network, shown = classifier(name, stride), images(40, 64)
    cells = network.backbone.stride_of(block)
    for found in (gradient_saliency(network, shown, block), torch.no_grad()(gradient_saliency)(network, shown, block)):
        assert found.shape == (2, -(-40 // cells), -(-64 // cells))
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert found.min() >= 0
        assert torch.equal(found.amax((1, 2)), torch.ones(2))
    assert all(parameter.grad is None for parameter in network.parameters())
    alone = gradient_saliency(network, shown[1:], block)
    torch.testing.assert_close(found[1:], alone, atol=1e-3, rtol=0)


def test_scores_that_depend_on_nothing_give_nothing() -> None:
    network = classifier()
    torch.nn.init.zeros_(network.head.weight)
    found = gradient_saliency(network, images(32, 32), "blocks.3")
    assert torch.equal(found, torch.zeros(2, 2, 2))


def test_half_precision() -> None:
    network, shown = classifier(block="blocks.3"), images(64, 64)
    plain = gradient_saliency(network, shown, "blocks.2")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = gradient_saliency(network, shown, "blocks.2")
    assert half.dtype == torch.float32
    assert torch.corrcoef(torch.stack([half.flatten(), plain.flatten()]))[0, 1] > 0.95


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu() -> None:
    network, shown = classifier(), images(64, 64)
    expected = gradient_saliency(network, shown, "blocks.3")
    found = gradient_saliency(network.cuda(), shown.cuda(), "blocks.3")
    torch.testing.assert_close(found.cpu(), expected, atol=1e-2, rtol=0)


def test_what_cannot_be_done_is_told() -> None:
    network, shown = classifier(), images(32, 32)
    with pytest.raises(SettingsError, match=r"block .*'blocks\.9'.*blocks\.0"):
        gradient_saliency(network, shown, "blocks.9")
    for side in (0, 2, -1):
        with pytest.raises(ValueError, match=f"odd window, not one of {side}"):
            gradient_saliency(network, shown, "blocks.3", median=side)
    network.backbone.freeze("blocks.3")
    assert gradient_saliency(network, shown, "blocks.3").max() == 1
    network.backbone.freeze("blocks.5")
    with pytest.raises(ValueError, match=r"no gradient reaches block 'blocks\.3'"):
        gradient_saliency(network, shown, "blocks.3")
    with pytest.raises(SettingsError, match="cannot be cached at a block"):
        gradient_saliency(classifier("vit_tiny_patch16_224"), shown, "blocks.3")


def test_a_classifier_with_a_block_of_its_own() -> None:
    """Its scores are not those of pooled features."""
    network = Classifier(classifier().backbone, 3, width=8).eval()
    shown = images(64, 64, batch=1)
    features = network.backbone.encode(shown, "blocks.1").requires_grad_()
    scores = network.head(network.backbone.forward_from(features, "blocks.1")).mean((2, 3))
    (gradient,) = torch.autograd.grad(scores.sum(), features)
    largest = gradient.abs().amax(1)
    found = gradient_saliency(network, shown, "blocks.1", median=1)
    torch.testing.assert_close(found, largest / largest.max())
