import inspect
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tag2mask
from tag2mask import ssdd
from tag2mask.data.classes import UNLABELLED
from tag2mask.errors import DataError
from tag2mask.losses.difference import difference_loss
from tag2mask.networks.segmenter import HeadSettings, Segmenter
from tag2mask.refine.difference import refine_pair
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.segmentation_system import on_label_grid
from tag2mask.stages.train_segmenter import ObjectiveSystem
from tag2mask.supervision.fixed_masks import FixedMasks
from tag2mask.supervision.objective import cross_entropy_objective
from tests.conftest import ROOT
from tests.test_docs import blocks

CLASSES = 3
FEATURES = ssdd.ImageFeatures(torch.linspace(-2, 2, 2 * 4 * 5 * 6).view(2, 4, 5, 6).sin())


class Told(ssdd.DifferenceNet):
    """A network that tells of class 1, wherever it stands, that the other mask will differ."""

    def __init__(self) -> None:
        super().__init__(4, 0, CLASSES, width=2)
        self.seen: list[Tensor] = []

    def forward(self, shared: Tensor, masks: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(masks)
        return torch.where(masks == 1, 3.0, -3.0)


def masks(size: tuple[int, int], seed: int) -> Tensor:
    ids = torch.tensor([0, 1, 2, UNLABELLED])
    return ids[torch.randint(4, (2, *size), generator=torch.Generator().manual_seed(seed))]


def test_it_is_part_of_the_package() -> None:
    assert tag2mask.ssdd is ssdd
    assert "ssdd" in tag2mask.__all__


def test_masks_on_the_grid_itself_are_refined_as_they_are() -> None:
    before, after = masks((5, 6), 1), masks((5, 6), 2)
    everything = torch.ones(2, CLASSES, dtype=torch.bool)
    expected = refine_pair(
        before,
        after,
        torch.where(before == 1, 3.0, -3.0),
        torch.where(after == 1, 3.0, -3.0),
        everything,
        bias=0.1,
        background_bias=0.1,
    )
    assert torch.equal(ssdd.refine(FEATURES, before, after, Told()), expected)
    assert not torch.equal(expected, before)
    assert not torch.equal(expected, after)


@pytest.mark.parametrize("size", [(20, 36), (13, 17), (3, 4)])
def test_masks_of_another_size(size: tuple[int, int]) -> None:
    before, after, network = masks(size, 1), masks(size, 2), Told()
    found = ssdd.refine(FEATURES, before, after, network, class_bias=0.0)
    told = []
    for mask, seen in zip((before, after), network.seen, strict=True):
        for row, column in np.ndindex(5, 6):  # the pixel that the cell's middle lies in
            y, x = int((row + 0.5) * size[0] / 5), int((column + 0.5) * size[1] / 6)
            assert torch.equal(seen[:, row, column], mask[:, y, x])
        logits = torch.where(seen == 1, 3.0, -3.0)[:, None]
        told.append(F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0])
    present = torch.ones(2, CLASSES, dtype=torch.bool)
    expected = refine_pair(before, after, *told, present, bias=0.1, background_bias=0.1, class_bias=0.0)
    assert found.shape == before.shape
    assert torch.equal(found, expected)


def test_the_kind_shape_and_type_are_those_of_before() -> None:
    before, after = masks((10, 9), 1), masks((10, 9), 2)
    expected = ssdd.refine(FEATURES, before, after, Told())
    arrays = [mask.numpy().astype(np.uint8) for mask in (before, after)]
    found = ssdd.refine(FEATURES, arrays[0], arrays[1][:, ::-1][:, ::-1], Told())
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected.numpy())
    one = ssdd.refine((FEATURES.high[:1], None), arrays[0][0].astype(np.uint16), arrays[1][0], Told())
    assert one.shape == (10, 9)
    assert one.dtype == np.uint16
    np.testing.assert_array_equal(one, expected[0].numpy())


def test_tags_say_whose_loss_counts_and_without_them_the_masks_do() -> None:
    before, after = torch.zeros(2, 5, 6, dtype=torch.long), torch.zeros(2, 5, 6, dtype=torch.long)
    before[0, :, 0] = 2
    with_class = ssdd.refine(FEATURES, before, after, Told())
    assert torch.equal(with_class, before)
    tagged = torch.tensor([True, False, True])
    assert torch.equal(ssdd.refine(FEATURES, before, after, Told(), present=tagged), before)
    assert torch.equal(ssdd.refine(FEATURES, before, after, Told(), present=~tagged), after)
    each = np.array([[True, True, False], [True, True, True]])
    assert torch.equal(ssdd.refine(FEATURES, before, after, Told(), present=each), after)
    assert torch.equal(ssdd.refine(FEATURES, before, after, Told(), class_bias=0.0), after)


def test_the_mode_comes_back_even_after_an_error() -> None:
    before = masks((5, 6), 1)
    for training in (True, False):
        network = Told().train(training)
        ssdd.refine(FEATURES, before, before, network)
        assert network.training is training
        with pytest.raises(DataError, match="low-level"):
            ssdd.refine((FEATURES.high, FEATURES.high), before, before, network)
        assert network.training is training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"before": torch.full((2, 5, 6), 3)}, "the id 3; the network knows the classes 0..2"),
        ({"after": torch.full((2, 5, 6), -1)}, "the id -1"),
        ({"before": torch.zeros(2, 5, 6)}, "masks must be integers"),
        ({"before": torch.zeros(2, 1, 5, 6, dtype=torch.long)}, "masks must be integers"),
        ({"after": torch.zeros(2, 6, 6, dtype=torch.long)}, "of one size"),
        ({"image_features": (FEATURES.high[:1], None)}, "of the same photographs"),
        ({"present": torch.ones(2, CLASSES)}, "present must be bool"),
        ({"present": torch.ones(2, 4, dtype=torch.bool)}, "present must be bool"),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, Any], message: str) -> None:
    mask = torch.zeros(2, 5, 6, dtype=torch.long)
    given = {"image_features": FEATURES, "before": mask, "after": mask, "network": Told()} | changes
    with pytest.raises(DataError, match=message):
        ssdd.refine(**given)


Mask = npt.NDArray[np.uint8]


def discs(images: int, seed: int) -> tuple[Tensor, Mask, Mask, Mask]:
    """Pictures of a disc in front of a wall: no photograph, no tags, no CRF.

    `before` is a box around the disc; `after` is the disc's threshold in a picture with stains.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48]
    centre, radius = random.integers(17, 31, size=(2, images, 1, 1)), random.integers(12, 17, size=(images, 1, 1))
    away = np.abs(y - centre[0]), np.abs(x - centre[1])
    box, disc = np.maximum(*away) < radius, np.hypot(*away) < radius
    stains = (random.random((images, 16, 16)) < 0.1).repeat(3, 1).repeat(3, 2)
    picture = torch.tensor(disc + random.normal(0, 0.5, size=disc.shape), dtype=torch.float32)
    features = F.avg_pool2d(picture[:, None], 3)
    return features, box.astype(np.uint8), (disc ^ stains).astype(np.uint8), disc.astype(np.uint8)


def test_a_pair_that_has_nothing_to_do_with_tags_or_crf() -> None:
    torch.manual_seed(0)
    network = ssdd.DifferenceNet(1, 0, 2, width=16)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(60):
        features, *pair, _ = discs(8, seed=step)
        before, after = (torch.from_numpy(mask[:, 1::3, 1::3]) for mask in pair)
        shared = network.shared(features, None)
        value, count = difference_loss(network(shared, before), before != after)
        other, _ = difference_loss(network(shared, after), before != after)
        optimiser.zero_grad()
        ((value + other) / count).backward()
        optimiser.step()
    features, first, second, truth = discs(32, seed=1000)
    found = ssdd.refine((features, None), first, second, network)
    accuracy = [float((mask == truth).mean()) for mask in (first, second, found)]
    assert accuracy[2] > max(accuracy[:2]) + 0.01, accuracy


@pytest.mark.parametrize("low_block", ["", "blocks.0"])
def test_features_are_those_the_network_was_trained_on(low_block: str) -> None:
    backbone = BackboneSettings(weights="none", block="blocks.2").create(0)
    segmenter = Segmenter(backbone, CLASSES, HeadSettings(width=4, dilations=(2,))).eval()
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    features = ssdd.image_features(segmenter, images, label_stride=4, low_block=low_block)
    training = ObjectiveSystem(segmenter, FixedMasks(), cross_entropy_objective(), head_multiplier=1.0)
    levels = on_label_grid(training.levels({"image": images}, low_block or None), (16, 12))
    assert torch.equal(features.high, levels.hidden)
    assert not features.high.requires_grad
    if low_block:
        assert features.low is not None
        assert levels.early is not None
        assert torch.equal(features.low, levels.early)
    else:
        assert features.low is None


def test_the_python_page_has_its_arguments() -> None:
    [arguments] = re.findall(
        r"^\| `ssdd\.refine\(([^)]*)\)` \|", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE
    )
    assert [word for word in arguments.split(", ") if word != "*"] == list(inspect.signature(ssdd.refine).parameters)


def test_the_example_of_the_python_page_runs_and_refines() -> None:
    [text] = [text for text in blocks(ROOT / "docs" / "python.md", "python") if "ssdd.refine" in text]
    names: dict[str, Any] = {}
    exec(text, names)
    before, after, refined = names["accuracies"]
    assert refined > max(before, after) + 0.01
