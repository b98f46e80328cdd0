from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.networks.heads import ASPP, Dilated, FrozenBatchNorm, LargeFOV


def large_fov(head: LargeFOV, features: Tensor, dilation: int) -> Tensor:
    """The head without dropout, written out."""
    first, second, last = (layer for layer in head if isinstance(layer, nn.Conv2d))
    hidden = F.conv2d(features, first.weight, first.bias, padding=dilation, dilation=dilation).clamp(min=0)
    hidden = F.conv2d(hidden, second.weight, second.bias).clamp(min=0)
    return F.conv2d(hidden, last.weight, last.bias)


@pytest.mark.parametrize("dilation", [1, 3, 12])
def test_large_fov_is_three_convolutions(dilation: int) -> None:
    torch.manual_seed(0)
    head = LargeFOV(5, 4, width=7, dilation=dilation, dropout=0.5).eval()
    features = torch.randn(2, 5, 9, 11)
    scores = head(features)
    assert scores.shape == (2, 4, 9, 11)
    assert torch.allclose(scores, large_fov(head, features, dilation), atol=1e-6)


def test_aspp_sums_single_convolutions() -> None:
    torch.manual_seed(0)
    head = ASPP(5, 4, width=0, dilations=(1, 2, 6)).eval()
    features = torch.randn(2, 5, 8, 7)
    expected = torch.zeros(2, 4, 8, 7)
    for branch, rate in zip(head.branches, (1, 2, 6), strict=True):
        expected += F.conv2d(features, branch.weight, branch.bias, padding=rate, dilation=rate)
    assert torch.allclose(head(features), expected, atol=1e-6)


def test_aspp_sums_large_fov_branches() -> None:
    torch.manual_seed(0)
    head = ASPP(5, 4, width=6, dilations=(1, 2)).eval()
    features = torch.randn(1, 5, 8, 7)
    expected = sum(large_fov(branch, features, rate) for branch, rate in zip(head.branches, (1, 2), strict=True))
    assert torch.allclose(head(features), expected, atol=1e-6)


def test_dilation_reaches_that_far() -> None:
    head = LargeFOV(1, 1, width=2, dilation=4, dropout=0)
    for parameter in head.parameters():
        nn.init.ones_(parameter)
    point = torch.zeros(1, 1, 11, 11)
    point[0, 0, 5, 5] = 1
    reached = (head(point) - head(torch.zeros_like(point)))[0, 0] != 0
    assert sorted(map(tuple, reached.nonzero().tolist())) == [(y, x) for y in (1, 5, 9) for x in (1, 5, 9)]


def test_dropout_in_training_alone() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 3, 4, 4)
    for head in (LargeFOV(3, 2, width=32, dropout=0.5), ASPP(3, 2, width=32, dropout=0.5)):
        assert not torch.equal(head(features), head(features))
        head.eval()
        assert torch.equal(head(features), head(features))


@pytest.mark.parametrize("classes", [4, 64])
def test_scores_start_near_zero_and_hidden_layers_do_not(classes: int) -> None:
    """As many hidden channels as classes (64) must not make a hidden layer start like the last one."""
    torch.manual_seed(0)
    branch = ASPP(64, classes, width=64, dilations=(1,)).branches[0]
    assert isinstance(branch, LargeFOV)
    first, second, last = (layer for layer in branch if isinstance(layer, nn.Conv2d))
    assert float(last.weight.detach().std()) == pytest.approx(0.01, rel=0.2)
    assert float(first.weight.detach().std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)
    assert float(second.weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert not any(layer.bias.any() for layer in (first, second, last) if layer.bias is not None)
    single = ASPP(64, classes, width=0, dilations=(1,)).branches[0]
    assert float(single.weight.detach().std()) == pytest.approx(0.01, rel=0.2)


def dilated(**options: Any) -> Dilated:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"width": 7, "dilation": 3, "dropout": 0.5, "frozen_norm": False}
    return Dilated(5, 4, **(settings | options))


def reflected(features: Tensor, convolution: nn.Conv2d, reach: int) -> Tensor:
    padded = F.pad(features, (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(padded, convolution.weight, convolution.bias, dilation=reach)


def test_the_dilated_head_is_two_convolutions_with_reflected_borders() -> None:
    head = dilated()
    with torch.no_grad():
        head.norm.weight.uniform_(0.5, 1.5)
        head.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr, operator]
        head.norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
    features = torch.randn(2, 5, 9, 11)
    head.eval()
    hidden = F.relu(head.norm(reflected(features, head.first, 3)))
    assert torch.allclose(head.hidden(features), hidden, atol=1e-6)
    assert torch.allclose(head(features), reflected(hidden, head.scores, 3), atol=1e-6)
    assert torch.equal(head(features), head.classify(head.hidden(features)))


def test_a_map_smaller_than_the_dilation_repeats_its_border_beyond_what_it_reflects() -> None:
    head = dilated(dilation=6).eval()
    features = torch.randn(1, 5, 4, 9)
    padded = F.pad(F.pad(features, (6, 6, 3, 3), mode="reflect"), (0, 0, 3, 3), mode="replicate")
    expected = F.relu(head.norm(F.conv2d(padded, head.first.weight, dilation=6)))
    assert torch.allclose(head.hidden(features), expected, atol=1e-6)
    assert head(features).shape == (1, 4, 4, 9)


def test_only_a_frozen_norm_leaves_its_statistics_alone() -> None:
    features = 5 + torch.randn(2, 5, 9, 9)
    for frozen in (False, True):
        head = dilated(frozen_norm=frozen, dropout=0.0).train()
        assert isinstance(head.norm, FrozenBatchNorm) == frozen
        before = head(features)
        moved = not torch.equal(head.norm.running_mean, torch.zeros(7))  # type: ignore[arg-type]
        assert moved != frozen
        # In evaluation the frozen norm does what it did in training.
        assert torch.allclose(head.eval()(features), before, atol=1e-5) == frozen
        assert all(parameter.requires_grad for parameter in head.parameters())


def test_large_fov_scores_come_from_its_hidden_layer() -> None:
    torch.manual_seed(0)
    head = LargeFOV(5, 4, width=7, dilation=2, dropout=0.5).eval()
    features = torch.randn(2, 5, 6, 6)
    assert head.hidden(features).shape == (2, 7, 6, 6)
    assert torch.equal(head.classify(head.hidden(features)), head(features))
