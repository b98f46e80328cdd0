from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tag2mask.data.classes import UNLABELLED
from tag2mask.errors import SettingsError
from tag2mask.evidence.reliable_labels import reliable_labels
from tag2mask.supervision.growing import SoftmaxCRF
from tag2mask.supervision.online_cams import OnlineCams, tagged_cams

SIDE, SHOWN = 16, 12


class Inputs(NamedTuple):
    """Two photographs: class 1 left and class 2 right on grey, class 1 alone with padding at its right."""

    maps: Tensor
    present: Tensor
    inside: Tensor
    image_on_grid: Tensor


@pytest.fixture
def inputs() -> Inputs:
    maps = torch.full((2, 3, SIDE, SIDE), -1.0)
    images = torch.full((2, 3, SIDE, SIDE), 120, dtype=torch.uint8)
    for row, index, left in ((0, 0, 2), (0, 1, 10), (1, 0, 2)):
        maps[row, index, 4:10, left : left + 5] = 0.3
        maps[row, index, 5:9, left + 1 : left + 4] = torch.linspace(2, 4, 12).view(4, 3)
        images[row, index, 4:10, left : left + 5] = 250
    maps[1, 1:] = 9.0  # absent
    inside = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    inside[1, :, SHOWN:] = False
    maps[1, 0, :, SHOWN:] = 50.0  # in the padding
    present = torch.tensor([[True, True, True, False], [True, True, False, False]])
    return Inputs(maps, present, inside, images)


def online(**rule: float) -> OnlineCams:
    return OnlineCams(SoftmaxCRF(iterations=3, shrink=8), **rule)


def test_objects_and_background_are_found_and_padding_is_left(inputs: Inputs) -> None:
    targets = online()([inputs.maps], *inputs[1:])
    labels, confidence = targets.labels, targets.confidence
    assert confidence is not None
    assert targets.refined is None
    assert labels.dtype == torch.uint8
    assert set(labels[0].unique().tolist()) == {0, 1, 2, UNLABELLED}
    assert set(labels[1].unique().tolist()) == {0, 1, UNLABELLED}
    assert (labels[0, 5:9, :8][labels[0, 5:9, :8] != UNLABELLED] <= 1).all()
    assert (labels[1, :, SHOWN:] == UNLABELLED).all()
    assert (confidence[labels != UNLABELLED] >= 0.8).all()
    assert not confidence[labels == UNLABELLED].any()
    # 40 % of those where the class has the largest map and that is above 0.1: its 12 inner cells.
    inner = (inputs.maps[1, 0] > 1) & inputs.inside[1]
    assert int((labels[1] == 1).sum()) == round(0.4 * int(inner.sum()))
    everything = online(share=1.0)([inputs.maps], *inputs[1:]).labels[1]
    assert torch.equal(everything == 1, inner)


def test_each_alpha_goes_where_it_belongs(inputs: Inputs) -> None:
    """Written out: power maps beside the CAMs, the CRF of each photograph's tagged classes, and the rule."""
    made = online(low_alpha=1.0, high_alpha=8.0, share=0.5, cam_above=0.2, background_above=0.7, probability_above=0.6)
    cams = tagged_cams([inputs.maps], inputs.present, inputs.inside)
    crf, powers, solved = SoftmaxCRF(iterations=3, shrink=8), [], []
    for alpha in (1.0, 8.0):
        power = (1 - cams.amax(1)) ** alpha
        scores = torch.cat([power[:, None], cams], 1)
        powers.append(power)
        solved.append(
            crf.of_tagged(inputs.image_on_grid, scores / scores.sum(1, keepdim=True), inputs.present, inputs.inside)
        )
    labels, confidence = reliable_labels(
        cams,
        powers[1],
        *solved,
        inputs.present,
        inputs.inside,
        share=0.5,
        cam_above=0.2,
        background_above=0.7,
        probability_above=0.6,
    )
    targets = made([inputs.maps], *inputs[1:])
    assert torch.equal(targets.labels, labels)
    assert torch.equal(targets.confidence, confidence)  # type: ignore[arg-type]


def test_cams_are_means_over_scales_by_their_maximum_in_the_photograph(inputs: Inputs) -> None:
    small = torch.nn.functional.avg_pool2d(inputs.maps, 2)
    cams = tagged_cams([inputs.maps, small], inputs.present, inputs.inside)
    large = torch.nn.functional.interpolate(small.relu(), (SIDE, SIDE), mode="bilinear", align_corners=False)
    mean = (inputs.maps.relu() + large) / 2
    mean[1, 0, :, SHOWN:] = 0
    assert torch.allclose(cams[0, 1], mean[0, 1] / mean[0, 1].max())
    assert torch.allclose(cams[1, 0], mean[1, 0] / mean[1, 0].max())
    assert not cams[1, 1:].any()
    assert not cams[0, 2].any()


def test_a_class_that_scores_nowhere_and_a_photograph_without_tags(inputs: Inputs) -> None:
    nowhere = inputs.maps.clone()
    nowhere[0, 1] = -1.0
    present = inputs.present.clone()
    present[1, 1] = False
    labels = online()([nowhere], present, *inputs[2:]).labels
    assert set(labels[0].unique().tolist()) == {0, 1, UNLABELLED}
    assert (labels[1, :, :SHOWN] == 0).all()


def test_half_precision_and_no_gradient(inputs: Inputs) -> None:
    maps = inputs.maps.clamp(max=9).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        targets = online()([maps], *inputs[1:])
    assert targets.confidence is not None
    assert targets.confidence.dtype == torch.float32
    assert not targets.confidence.requires_grad
    assert (targets.labels == 1).any()


def test_maps_that_are_not_finite(inputs: Inputs) -> None:
    inputs.maps[0, 2, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        online()([inputs.maps], *inputs[1:])


@pytest.mark.parametrize("alphas", [(0.0, 1.0), (2.0, 1.0)])
def test_impossible_alphas(alphas: tuple[float, float]) -> None:
    with pytest.raises(SettingsError, match="low_alpha <= high_alpha"):
        online(low_alpha=alphas[0], high_alpha=alphas[1])
