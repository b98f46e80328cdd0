import pytest
import torch
from torch import Tensor, nn

from tag2mask.engine.system import Batch, Position
from tag2mask.errors import SettingsError
from tag2mask.refine.dense_crf import dense_crf
from tag2mask.refine.region_growing import grow_regions, grow_superpixels
from tag2mask.supervision import growing
from tag2mask.supervision.growing import OnlineLabels, RegionGrowing, SoftmaxCRF, SuperpixelGrowing
from tag2mask.supervision.targets import Targets

CLASSES = 4


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    labels = torch.full((2, 9, 11), 255, dtype=torch.uint8)
    labels[:, 0, :3], labels[:, 4, 4], labels[:, 8, 8] = 0, 1, 2
    superpixels = torch.randint(0, 6, (2, 9, 11), dtype=torch.int32)
    superpixels[1, :, 9:] = -1
    return {
        "labels": labels,
        "present": torch.tensor([[True, True, True, False], [False, True, False, True]]),
        "image_on_grid": torch.randint(0, 256, (2, 3, 9, 11), dtype=torch.uint8),
        "superpixels": superpixels,
        "inside": superpixels >= 0,
    }


@pytest.fixture
def scores(batch: Batch) -> Tensor:
    return (torch.randn(2, CLASSES, 9, 11) * 3).requires_grad_()


def targets(supervision: OnlineLabels, batch: Batch, scores: Tensor) -> Targets:
    """The supervision's targets from a batch that holds nothing but what it says it needs."""
    handed_out = {name: batch[name] for name in supervision.needs | {"labels"}}
    made: Targets = supervision(handed_out, scores, nn.Identity(), Position(0, 1, 0, 0))
    return made


def softmax_inside(batch: Batch, scores: Tensor) -> Tensor:
    return scores.detach().softmax(1).masked_fill(~batch["inside"][:, None], torch.nan)


def refined_by(batch: Batch, scores: Tensor, **settings: float | str) -> Tensor:
    """The CRF of each photograph without the padding to its right; the softmax as it is in that."""
    refined = scores.detach().softmax(1)
    for photo, h, inside in zip(batch["image_on_grid"].permute(0, 2, 3, 1), refined, batch["inside"], strict=True):
        width = int(inside[0].sum())
        h[:, :, :width] = dense_crf(photo[:, :width], h[:, :, :width].clone(), **settings)  # type: ignore[arg-type]
    return refined


def test_absent_classes_take_no_part_in_the_crf_of_tagged(batch: Batch, scores: Tensor) -> None:
    """Of every photograph the same as its CRF alone, with the absent classes' maps taken away."""
    present = torch.tensor([[True, True, True, False], [True, False, False, True]])
    probabilities = scores.detach().masked_fill(~present[:, :, None, None], -torch.inf).softmax(1)
    crf = SoftmaxCRF(iterations=3, shrink=4)
    refined = crf.of_tagged(batch["image_on_grid"], probabilities, present, batch["inside"])
    assert not refined[~present].any()
    assert torch.allclose(refined.sum(1), torch.ones(()))
    for row, tagged in enumerate(present):
        alone = [batch[name][row : row + 1] for name in ("image_on_grid", "inside")]
        solved = crf(alone[0], probabilities[row : row + 1, tagged], alone[1])
        assert torch.equal(refined[row, tagged], solved[0])
    floor = crf(batch["image_on_grid"], probabilities, batch["inside"])
    assert floor[~present].any()  # what a probability of 0 would come to


def test_the_crf_shrinks_widths_in_pixels_and_leaves_the_rest(batch: Batch, scores: Tensor) -> None:
    crf = SoftmaxCRF(iterations=3, bilateral_srgb=20, gaussian_weight=2, bilateral_weight=5, shrink=4, unary="flat")
    refined = crf(batch["image_on_grid"], scores.softmax(1), batch["inside"])
    expected = refined_by(
        batch,
        scores,
        iterations=3,
        gaussian_sxy=0.75,
        gaussian_weight=2,
        bilateral_sxy=20,
        bilateral_srgb=20,
        bilateral_weight=5,
        unary="flat",
    )
    assert torch.equal(refined, expected)
    assert not refined.requires_grad


def test_the_papers_crf(batch: Batch, scores: Tensor) -> None:
    expected = refined_by(batch, scores, gaussian_sxy=3 / 12, bilateral_sxy=80 / 12)
    assert torch.equal(SoftmaxCRF()(batch["image_on_grid"], scores.softmax(1), batch["inside"]), expected)


def test_photographs_that_fill_the_grid_and_a_grid_without_any(batch: Batch, scores: Tensor) -> None:
    h = scores.detach().softmax(1)
    whole = {**batch, "inside": torch.ones(2, 9, 11, dtype=torch.bool)}
    expected = refined_by(whole, scores, gaussian_sxy=3 / 12, bilateral_sxy=80 / 12)
    assert torch.equal(SoftmaxCRF()(batch["image_on_grid"], h, whole["inside"]), expected)
    assert torch.equal(SoftmaxCRF()(batch["image_on_grid"], h, ~whole["inside"]), h)


def test_the_colour_of_padding_changes_nothing(batch: Batch, scores: Tensor) -> None:
    h = scores.detach().softmax(1)
    black = batch["image_on_grid"].masked_fill(~batch["inside"][:, None], 0)
    first, second = (SoftmaxCRF()(images, h, batch["inside"]) for images in (batch["image_on_grid"], black))
    assert torch.equal(first, second)


def test_dsrg(batch: Batch, scores: Tensor) -> None:
    """Regions grow on the refined softmax; the refined softmax of all classes is there for the boundary loss."""
    supervision = OnlineLabels(RegionGrowing(0.6, 0.5), SoftmaxCRF())
    made = targets(supervision, batch, scores)
    refined = refined_by(batch, scores, gaussian_sxy=3 / 12, bilateral_sxy=80 / 12)
    expected = grow_regions(
        batch["labels"],
        refined.masked_fill(~batch["inside"][:, None], torch.nan),
        batch["present"],
        background_threshold=0.6,
        foreground_threshold=0.5,
    )
    assert made.refined is not None
    assert torch.equal(made.refined, refined)
    assert torch.equal(made.labels, expected)
    assert not torch.equal(made.labels, batch["labels"]), "something grows in this example"
    assert supervision.needs == {"present", "inside", "image_on_grid"}


def test_growing_on_the_raw_softmax(batch: Batch, scores: Tensor) -> None:
    expected = grow_regions(
        batch["labels"],
        softmax_inside(batch, scores),
        batch["present"],
        background_threshold=0.6,
        foreground_threshold=0.5,
    )
    with_crf = targets(OnlineLabels(RegionGrowing(0.6, 0.5), SoftmaxCRF(), grow_on="softmax"), batch, scores)
    without = targets(OnlineLabels(RegionGrowing(0.6, 0.5)), batch, scores)
    on_crf = targets(OnlineLabels(RegionGrowing(0.6, 0.5), SoftmaxCRF()), batch, scores)
    assert torch.equal(with_crf.labels, expected)
    assert with_crf.refined is not None
    assert torch.equal(without.labels, expected)
    assert without.refined is None
    assert not torch.equal(on_crf.labels, expected)


def test_nothing_grows_beside_the_photograph(batch: Batch) -> None:
    sure_of_background = torch.zeros(2, CLASSES, 9, 11)
    sure_of_background[:, 0] = 50
    for crf in (None, SoftmaxCRF()):
        made = targets(OnlineLabels(RegionGrowing(), crf), batch, sure_of_background)
        free = batch["labels"] == 255
        assert not made.labels[free & batch["inside"]].any()
        assert (made.labels[free & ~batch["inside"]] == 255).all()


def test_the_papers_thresholds(batch: Batch, scores: Tensor) -> None:
    sure = scores.detach() * 4
    expected = grow_regions(
        batch["labels"],
        softmax_inside(batch, sure),
        batch["present"],
        background_threshold=0.99,
        foreground_threshold=0.85,
    )
    assert torch.equal(targets(OnlineLabels(RegionGrowing()), batch, sure).labels, expected)
    assert repr(SuperpixelGrowing()) == repr(SuperpixelGrowing(0.7, 0.7))


def test_superpixels_grow(batch: Batch, scores: Tensor) -> None:
    supervision = OnlineLabels(SuperpixelGrowing(0.2, 0.25))
    expected = grow_superpixels(
        batch["labels"],
        softmax_inside(batch, scores),
        batch["superpixels"],
        batch["present"],
        background_threshold=0.2,
        foreground_threshold=0.25,
    )
    assert torch.equal(targets(supervision, batch, scores).labels, expected)
    assert not torch.equal(expected, batch["labels"])
    assert supervision.needs == {"present", "inside", "superpixels"}


def test_small_numbers_for_superpixels_of_a_device() -> None:
    """Ids far above the number of pixels, missing ones and pixels of none: the same parts, numbered from 0 up."""
    torch.manual_seed(1)
    ids = torch.tensor([-1, -7, 3, 900, 65_535], dtype=torch.int32)[torch.randint(5, (3, 4, 5))]
    numbers, below = growing._renumbered(ids)
    assert below == 20
    assert int(numbers.max()) < below
    for image, its_numbers in zip(ids, numbers, strict=True):
        assert torch.equal(image < 0, its_numbers < 0)
        inside = image[image >= 0], its_numbers[image >= 0]
        assert torch.equal(inside[0][:, None] == inside[0], inside[1][:, None] == inside[1])


def test_numbers_of_superpixels_change_no_label(batch: Batch, scores: Tensor) -> None:
    supervision = OnlineLabels(SuperpixelGrowing(0.2, 0.25))
    numbers, _ = growing._renumbered(batch["superpixels"] * 1000)
    renumbered = targets(supervision, {**batch, "superpixels": numbers}, scores)
    assert torch.equal(renumbered.labels, targets(supervision, batch, scores).labels)


@pytest.mark.parametrize("grow", [RegionGrowing(), SuperpixelGrowing()])
def test_growing_on_a_device_never_waits_for_it(batch: Batch, scores: Tensor, grow: nn.Module) -> None:
    """Meta tensors have no values that the host could ask for."""
    elsewhere = {name: value.to("meta") for name, value in batch.items()}
    made = targets(OnlineLabels(grow), elsewhere, scores.detach().to("meta"))  # type: ignore[arg-type]
    assert made.labels.shape == batch["labels"].shape
    assert made.labels.dtype == torch.uint8


def test_sec_grows_nothing(batch: Batch, scores: Tensor) -> None:
    supervision = OnlineLabels(crf=SoftmaxCRF())
    made = targets(supervision, batch, scores)
    assert made.labels is batch["labels"]
    assert made.refined is not None
    assert supervision.needs == {"inside", "image_on_grid"}


def test_with_nothing_the_seeds_are_the_labels(batch: Batch, scores: Tensor) -> None:
    made = targets(OnlineLabels(), batch, scores)
    assert made.labels is batch["labels"]
    assert made.refined is None
    assert OnlineLabels().needs == frozenset()


def test_a_training_that_ran_away_says_so_and_not_that_the_crf_got_no_probabilities(batch: Batch) -> None:
    scores = torch.zeros(2, CLASSES, 9, 11)
    scores[1, 2, 3, 4] = torch.inf
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        targets(OnlineLabels(crf=SoftmaxCRF(iterations=1)), batch, scores)


def test_the_same_in_half_precision_scores_and_under_autocast(batch: Batch, scores: Tensor) -> None:
    supervision = OnlineLabels(RegionGrowing(0.6, 0.5), SoftmaxCRF())
    half = scores.detach().bfloat16()
    expected = targets(supervision, batch, half.float())
    with torch.autocast("cpu", torch.bfloat16):
        made = targets(supervision, batch, half)
    assert made.refined is not None
    assert expected.refined is not None
    assert made.refined.dtype == torch.float32
    assert torch.equal(made.refined, expected.refined)
    assert torch.equal(made.labels, expected.labels)


SETTINGS = {
    SoftmaxCRF: {
        "iterations": 7,
        "gaussian_sxy": 1.5,
        "gaussian_weight": 2.5,
        "bilateral_sxy": 33.0,
        "bilateral_srgb": 9.5,
        "bilateral_weight": 4.5,
        "shrink": 8.0,
        "unary": "flat",
    },
    RegionGrowing: {"background_threshold": 0.5, "foreground_threshold": 0.4},
    SuperpixelGrowing: {"background_threshold": 0.5, "foreground_threshold": 0.4},
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in SETTINGS.items() for name in names])
def test_every_setting_is_told(module: type[nn.Module], name: str) -> None:
    value = SETTINGS[module][name]
    assert f"{name}={value}" in repr(module(**{name: value}))
    assert f"{name}={value}" not in repr(module())
    if isinstance(value, float):
        assert repr(module(**{name: 1})) == repr(module(**{name: 1.0}))


def test_supervisions_tell_their_parts() -> None:
    told = {
        repr(made)
        for made in (
            OnlineLabels(),
            OnlineLabels(RegionGrowing()),
            OnlineLabels(SuperpixelGrowing(0.99, 0.85)),
            OnlineLabels(crf=SoftmaxCRF()),
            OnlineLabels(RegionGrowing(), SoftmaxCRF()),
            OnlineLabels(RegionGrowing(), SoftmaxCRF(), grow_on="softmax"),
        )
    }
    assert len(told) == 6
    # Where there is nothing to choose from, the choice must not make a new result of it.
    assert repr(OnlineLabels(RegionGrowing())) == repr(OnlineLabels(RegionGrowing(), grow_on="softmax"))


def test_settings_that_cannot_be() -> None:
    with pytest.raises(SettingsError, match="shrink"):
        SoftmaxCRF(shrink=0)
    with pytest.raises(SettingsError, match="log, flat"):
        SoftmaxCRF(unary="softmax")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="crf, softmax"):
        OnlineLabels(grow_on="labels")  # type: ignore[arg-type]
