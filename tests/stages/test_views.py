from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.base.settings import canonical
from tag2mask.data.view import IMAGE, to_view
from tag2mask.errors import SettingsError
from tag2mask.networks.backbone_facts import backbone_facts
from tag2mask.networks.backbones import create_backbone
from tag2mask.stages.views import ViewSettings, change_colours, load_image, view_image
from tests.builders import shapes_dataset


def views(settings: ViewSettings, epochs: int = 40, image_id: str = "a", seed: int = 0) -> list:
    return [settings.draw((60, 90), seed=seed, epoch=epoch, image_id=image_id) for epoch in range(epochs)]


def test_a_drawn_view_depends_on_seed_epoch_and_id() -> None:
    settings = ViewSettings(crop=32, long_side=(40, 120))
    drawn = views(settings)
    assert drawn == views(settings)
    assert drawn != views(settings, image_id="b")
    assert drawn != views(settings, seed=1)
    assert len({view.resized for view in drawn}) > 10
    assert {view.mirror for view in drawn} == {False, True}


def test_long_sides_and_factors_stay_in_their_range() -> None:
    by_side = views(ViewSettings(crop=32, long_side=(40, 120)))
    assert all(40 <= max(view.resized) <= 120 for view in by_side)
    by_scale = views(ViewSettings(crop=32, scale=(0.5, 2.0)))
    assert all(45 <= max(view.resized) <= 180 for view in by_scale)
    assert all(view.output_size() == (32, 32) for view in by_side + by_scale)
    assert not any(view.mirror for view in views(ViewSettings(crop=32, mirror=False)))


def test_one_of_several_factors_is_drawn() -> None:
    drawn = views(ViewSettings(crop=32, scales=(0.5, 1.0, 1.5)), epochs=90)
    sizes = [view.resized for view in drawn]
    assert set(sizes) == {(30, 45), (60, 90), (90, 135)}
    assert min(sizes.count(size) for size in set(sizes)) > 15
    assert drawn == views(ViewSettings(crop=32, scales=(0.5, 1.0, 1.5)), epochs=90)
    assert len({view.crop for view in drawn}) > 30  # the window is drawn beside the factor


def test_without_factors_views_are_those_of_earlier_versions() -> None:
    known = ViewSettings(crop=32, scale=(0.5, 2.0))
    assert "scales" not in canonical(known, for_fingerprint=True)
    assert canonical(ViewSettings(scales=(1.0,)), for_fingerprint=True)["scales"] == [1.0]


@pytest.mark.parametrize(
    ("settings", "resized"),
    [(ViewSettings(crop=48, whole=True), (32, 48)), (ViewSettings(crop=48, stretch=True), (48, 48))],
)
def test_whole_photographs_leave_nothing_to_chance_but_the_mirror(
    settings: ViewSettings, resized: tuple[int, int]
) -> None:
    drawn = views(settings)
    plain, mirrored = (settings.whole_view((60, 90), mirror=mirror) for mirror in (False, True))
    assert plain.resized == resized
    assert plain.output_size() == (48, 48)
    assert set(drawn) == {plain, mirrored}
    assert 8 < sum(view.mirror for view in drawn) < 32
    assert drawn == views(settings)


def test_squares_of_a_drawn_side_are_cropped() -> None:
    """SSDD's views: the aspect dropped, a side drawn, a window cut."""
    settings = ViewSettings(crop=48, stretch=True, long_side=(48, 64))
    drawn = views(settings, epochs=90)
    assert {view.resized for view in drawn} == {(side, side) for side in range(48, 65)}
    assert all(0 <= view.crop[0] <= view.resized[0] - 48 and view.crop[2:] == (48, 48) for view in drawn)
    assert len({view.crop for view in drawn}) > 30
    assert not settings.without_chance
    assert {view.resized for view in views(ViewSettings(crop=48, stretch=True, scales=(1.0, 1.5)), epochs=20)} == {
        (48, 48),
        (72, 72),
    }
    assert ViewSettings(crop=48, stretch=True).without_chance


def test_a_photograph_is_loaded_channels_first(tmp_path: Any) -> None:
    (sample, *_) = shapes_dataset(tmp_path / "data").train.samples
    image = load_image(sample)
    assert image.shape == (3, 48, 64)
    assert image.dtype == torch.uint8
    assert image[:, 24, 21].tolist() == [220, 60, 40]  # the red disc


def test_beyond_the_photograph_is_the_mean_colour() -> None:
    backbone = create_backbone("tf_efficientnet_lite0", weights="none", block="stem")
    image = torch.full((3, 60, 90), 200, dtype=torch.uint8)
    view = ViewSettings(crop=48, whole=True).whole_view((60, 90), mirror=False)
    seen = view_image(image, view, backbone)
    assert torch.equal(view_image(image, view, backbone_facts("tf_efficientnet_lite0")), seen)
    assert seen.shape == (3, 48, 48)
    assert seen[:, 32:].abs().max() < 1e-6
    inside = (200 / 255 - backbone.mean[0]) / backbone.std[0]
    assert torch.allclose(seen[:, :32], torch.full((3, 32, 48), inside), atol=1e-5)
    mirrored = ViewSettings(crop=48, whole=True).whole_view((60, 90), mirror=True)
    noise = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8)
    first, second = to_view(noise, view, IMAGE, fill=0), to_view(noise, mirrored, IMAGE, fill=0)
    assert torch.equal(first.flip(2), second)


def test_colours_change_with_seed_epoch_and_id_and_nothing_else() -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 20, 20), dtype=np.uint8))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    changed = change_colours(image, 0.5, seed=0, epoch=0, image_id="a")
    assert torch.equal(torch.get_rng_state(), state)  # the training's own random numbers go on undisturbed
    torch.manual_seed(6)
    assert torch.equal(change_colours(image, 0.5, seed=0, epoch=0, image_id="a"), changed)
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, image)
    for other in ({"seed": 1}, {"epoch": 1}, {"image_id": "b"}):
        again = change_colours(image, 0.5, **{"seed": 0, "epoch": 0, "image_id": "a", **other})  # type: ignore[arg-type]
        assert not torch.equal(again, changed), other
    assert change_colours(image, 0.0, seed=0, epoch=0, image_id="a") is image


def test_colours_change_by_no_more_than_the_strength() -> None:
    grey = torch.full((3, 4, 5), 100, dtype=torch.uint8)  # contrast, saturation and hue leave an even grey alone
    values = [
        change_colours(grey, 0.3, seed=0, epoch=epoch, image_id="a").float().mean().item() for epoch in range(200)
    ]
    assert 69 <= min(values) < 75
    assert 125 < max(values) <= 130
    red = torch.tensor([200, 20, 20], dtype=torch.uint8)[:, None, None].expand(3, 4, 5)
    changed = [change_colours(red, 0.2, seed=0, epoch=epoch, image_id="a")[:, 0, 0].tolist() for epoch in range(50)]
    assert all(value[0] > max(value[1:]) for value in changed)  # a hue moves by a twentieth of the circle at most
    assert any(value[1] > value[2] + 10 for value in changed)
    assert any(value[2] > value[1] + 10 for value in changed)


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": 0},
        {"long_side": (80, 40)},
        {"long_side": (0, 40)},
        {"long_side": (-1, 40)},
        {"scale": (0.0, 1.0)},
        {"scale": (2.0, 1.0)},
        {"colour": 1.5},
        {"scales": (0.5, 0.0)},
        {"scales": (0.5, 1.0), "scale": (0.5, 2.0)},
        {"scales": (0.5, 1.0), "long_side": (40, 80)},
    ],
)
def test_impossible_values_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        ViewSettings(**wrong)
