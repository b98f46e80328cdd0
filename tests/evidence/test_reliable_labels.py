import math

import pytest
import torch
from torch import Tensor

from tag2mask.errors import DataError, SettingsError
from tag2mask.evidence.reliable_labels import online_labels, reliable_labels

Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def example(seed: int, size: tuple[int, int] = (9, 11), images: int = 3, classes: int = 4) -> Case:
    """CAMs in steps of 1/16, so that there are ties, of a few present classes; CRFs that are often sure."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(images, classes + 1, generator=generator) < 0.6
    present[:, 0] = True
    cams = (torch.rand(images, classes, *size, generator=generator) ** 2 * 16).round() / 16 * present[:, 1:, None, None]
    power = (1 - cams.amax(1)) ** 4
    unary = torch.cat([power[:, None], cams], 1)
    low, high = ((6 * unary + torch.randn(unary.shape, generator=generator)).softmax(1) for _ in range(2))
    inside = torch.ones(images, *size, dtype=torch.bool)
    inside[-1, :, -3:] = False
    return cams, power, low, high, present, inside


def plain(
    case: Case, share: float, cam_above: float, background_above: float, probability_above: float
) -> tuple[Tensor, Tensor]:
    """Pixel by pixel and class by class."""
    cams, power, low, high, present, inside = case
    images, classes, height, width = cams.shape
    labels = torch.full((images, height, width), 255, dtype=torch.uint8)
    confidence = torch.zeros(images, height, width)
    pixels = [(y, x) for y in range(height) for x in range(width)]
    for n in range(images):
        sure = set()
        for c in range(1, classes + 1):
            found = [
                (float(cams[n, c - 1, y, x]), (y, x))
                for y, x in pixels
                if present[n, c] and inside[n, y, x] and cams[n, c - 1, y, x] > cam_above
                if cams[n, c - 1, y, x] > power[n, y, x]
                and all(
                    cams[n, c - 1, y, x] > cams[n, k, y, x] or (k >= c - 1 and cams[n, c - 1, y, x] == cams[n, k, y, x])
                    for k in range(classes)
                )
            ]
            if found:
                found.sort(reverse=True)
                least = found[max(1, round(share * len(found))) - 1][0]
                sure |= {place for cam, place in found if cam >= least}
        for y, x in pixels:
            if power[n, y, x] >= cams[n, :, y, x].max() and power[n, y, x] > background_above:
                sure.add((y, x))
        for y, x in sure:
            probability = max(float(high[n, 0, y, x]), float(low[n, 1:, y, x].max()))
            if not inside[n, y, x] or probability < probability_above:
                continue
            if int(high[n, :, y, x].argmax()) == 0:
                labels[n, y, x] = 0
            elif int(low[n, :, y, x].argmax()) > 0:
                labels[n, y, x] = int(low[n, :, y, x].argmax())
            else:
                continue
            confidence[n, y, x] = probability
    return labels, confidence


@pytest.mark.parametrize(
    "settings",
    [(0.4, 0.1, 0.8, 0.8), (1.0, 0.0, 0.2, 0.0), (0.05, 0.3, 0.5, 0.5)],
    ids=["RRM", "nearly all", "few"],
)
@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(seed: int, settings: tuple[float, float, float, float]) -> None:
    case = example(seed)
    names = ("share", "cam_above", "background_above", "probability_above")
    labels, confidence = reliable_labels(*case, **dict(zip(names, settings, strict=True)))
    expected, probability = plain(case, *settings)
    assert labels.dtype == torch.uint8
    assert confidence.dtype == torch.float32
    assert torch.equal(labels, expected)
    assert torch.equal(confidence, probability)
    assert len(expected.unique()) >= 3


def test_two_crfs_and_who_wins() -> None:
    """Background where the weak background says so, though the strong one says an object; nothing between."""
    low = torch.tensor([[0.1, 0.9, 0.8], [0.9, 0.1, 0.2]])[None, :, None]
    high = torch.tensor([[0.9, 0.2, 0.6], [0.1, 0.8, 0.4]])[None, :, None]
    assert online_labels(low, high).tolist() == [[[0, 255, 0]]]
    assert online_labels(low, high.flip(1)).tolist() == [[[1, 0, 255]]]


def test_forty_percent_of_each_class_and_image() -> None:
    """Ten pixels of each of two classes: the four highest of each, however small a class's CAM is."""
    cams = torch.zeros(2, 2, 1, 20)
    cams[:, 0, 0, :10] = torch.linspace(0.6, 1.0, 10)
    cams[0, 1, 0, 10:] = torch.linspace(0.2, 0.3, 10)
    power = torch.zeros(2, 1, 20)
    sure = torch.zeros(2, 3, 1, 20)
    sure[:, 1, 0, :10] = 1
    sure[:, 2, 0, 10:] = 1
    present, inside = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 1, 20, dtype=torch.bool)
    labels, confidence = reliable_labels(cams, power, sure, sure, present, inside)
    ones, twos = [255] * 6 + [1] * 4, [255] * 6 + [2] * 4
    assert labels.tolist() == [[ones + twos], [ones + [255] * 10]]
    assert torch.equal(confidence, (labels != 255).float())
    absent = present.clone()
    absent[0, 2] = False
    assert reliable_labels(cams, power, sure, sure, absent, inside)[0][0].tolist() == [ones + [255] * 10]


def test_a_kept_pixel_has_the_crfs_label() -> None:
    """Where the CAM's class and the CRF's differ, the CRF is believed."""
    cams = torch.tensor([0.9, 0.2])[None, :, None, None]
    low = torch.tensor([0.05, 0.05, 0.9])[None, :, None, None]
    labels, confidence = reliable_labels(
        cams, torch.full((1, 1, 1), 0.1), low, low, torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 1, 1).bool()
    )
    assert labels.item() == 2
    assert confidence.item() == pytest.approx(0.9)


def test_photographs_without_evidence() -> None:
    """No CAM at all: background where the power map and the CRF say so; nothing inside: nothing labelled."""
    cams, power = torch.zeros(1, 2, 3, 3), torch.ones(1, 3, 3)
    crf = torch.tensor([0.9, 0.05, 0.05])[None, :, None, None].expand(1, 3, 3, 3)
    present, inside = torch.tensor([[True, False, False]]), torch.ones(1, 3, 3, dtype=torch.bool)
    assert not reliable_labels(cams, power, crf, crf, present, inside)[0].any()
    labels, confidence = reliable_labels(cams, power, crf, crf, present, ~inside)
    assert (labels == 255).all()
    assert not confidence.any()


def test_half_precision() -> None:
    cams, power, low, high, present, inside = example(0)
    halves = [x.half() for x in (cams, power, low, high)]
    labels, confidence = reliable_labels(halves[0], halves[1], halves[2], halves[3], present, inside)
    floats = [x.float() for x in halves]
    expected = reliable_labels(floats[0], floats[1], floats[2], floats[3], present, inside)
    assert torch.equal(labels, expected[0])
    assert confidence.dtype == torch.float32
    assert torch.equal(confidence, expected[1])


def test_bad_arguments() -> None:
    cams, power, low, high, present, inside = example(0)
    with pytest.raises(DataError, match=r"do not fit cams of shape \(3, 4, 9, 11\)"):
        reliable_labels(cams, power, low[:, 1:], high, present, inside)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(SettingsError, match="share must be above 0 and at most 1"):
            reliable_labels(cams, power, low, high, present, inside, share=share)
