import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tag2mask.data.classes import BACKGROUND
from tag2mask.data.images import read_image
from tag2mask.data.layers import HeatMap
from tag2mask.data.view import IMAGE, LABELS, SCORES, View, to_view
from tag2mask.engine.environment import Environment
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.networks.segmenter import Levels
from tag2mask.stages.difference.difference_maps import DifferenceMaps, DifferenceMapSettings, Shown
from tag2mask.stages.difference.train_difference import StaticSystem, TrainDifference
from tag2mask.stages.views import ViewSettings
from tests.builders import shapes_environment, write_shapes
from tests.stages.conftest import Boxes, FinishedPairs, pair_settings, run_with_inputs

SIZES = ((61, 97), (97, 61), (64, 64), (53, 71), (128, 40), (33, 90))
STRIDE = 4


class Mirror(StaticSystem):
    """Networks that say what they are shown: d told from before is the photograph's red, the other of the masks."""

    def grid_levels(self, batch: Any) -> Levels:
        mean, std = self.network.backbone.mean[0], self.network.backbone.std[0]
        red = 255 * (F.avg_pool2d(batch["image"][:, :1], STRIDE, ceil_mode=True) * std + mean)
        return Levels(red, red, red, None)

    def differences(self, levels: Levels, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        return levels.hidden[:, 0], (after != BACKGROUND).float() + 10 * (before != BACKGROUND).float()


def photograph(size: tuple[int, int], index: int) -> np.ndarray:
    """Red that grows to the right and downwards, with one bright corner, unlike any mirror image or neighbour."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    red = 90 * (columns + 0.5) / width + 50 * ((rows + 0.5) / height) ** 2 + 12 * index
    red[: height // 4, : width // 4] = 250
    return np.stack([red, red / 2, 255 - red], axis=-1).round().astype(np.uint8)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("maps")
    write_shapes(folder / "data", masks=False)
    for index, size in enumerate(SIZES):
        path = folder / "data" / "JPEGImages" / f"shape_{index:02d}.png"
        Image.fromarray(photograph(size, index)).save(path)
    return shapes_environment(folder, threads=1)


def maps_of(views: ViewSettings, long_side: int = 0) -> DifferenceMaps:
    segmenter = dataclasses.replace(pair_settings().segmenter, views=views, cache_features=False)
    nets = TrainDifference(OffCentre(8), OffCentre(11), segmenter, pair_settings().difference)
    return DifferenceMaps(nets, DifferenceMapSettings(long_side))


class OffCentre(Boxes):
    """The boxes' masks, moved to the left and up."""

    name = "off_centre"

    def load(self, env: Environment, image_id: str) -> np.ndarray:
        mask = super().load(env, image_id)
        return np.roll(mask, (-mask.shape[0] // 6, -mask.shape[1] // 6), (0, 1))


@pytest.fixture(params=["whole", "stretch", "crops", "other side"])
def shown(request: pytest.FixtureRequest, env: Environment, monkeypatch: pytest.MonkeyPatch) -> DifferenceMaps:
    views, long_side = {
        "whole": (ViewSettings(crop=96, whole=True), 0),
        "stretch": (ViewSettings(crop=96, stretch=True), 0),
        "crops": (ViewSettings(crop=48, long_side=(60, 90)), 98),
        "other side": (ViewSettings(crop=64, whole=True), 101),
    }[request.param]
    maps = maps_of(views, long_side)

    def system(nets: TrainDifference, env: Environment) -> StaticSystem:
        made: Any = nets.system_to_time(env).eval()
        made.__class__ = Mirror
        made.after = None
        return made

    monkeypatch.setattr(TrainDifference, "image_system", system)
    for stage in (maps.nets.before, maps.nets.after):
        if not stage.complete(env):
            stage.run(env)
    maps.run(env)
    return maps


def random_views(size: tuple[int, int], count: int) -> list[View]:
    views = ViewSettings(crop=72, long_side=(60, 130))
    drawn = [views.draw(size, seed=1, epoch=epoch, image_id="x") for epoch in range(count)]
    assert {view.mirror for view in drawn} == {False, True}
    return drawn


def seen(env: Environment, maps: DifferenceMaps, image_id: str, view: View) -> tuple[Tensor, Tensor]:
    """What the networks would say at a view, by the photograph and the masks themselves, and where that is inside."""
    image = torch.from_numpy(read_image(env.dataset.root / "JPEGImages" / f"{image_id}.png")).permute(2, 0, 1)
    red = to_view(image, view, IMAGE, stride=STRIDE, fill=0)[0]
    masks = [torch.from_numpy(stage.load(env, image_id)) for stage in (maps.nets.after, maps.nets.before)]
    after, before = (to_view((mask != BACKGROUND).float(), view, SCORES, stride=STRIDE) for mask in masks)
    inside = to_view(torch.ones(image.shape[1:]), view, SCORES, stride=STRIDE) > 0
    return torch.stack([red, after + 10 * before]), inside


def test_kept_maps_take_the_photographs_crop_and_mirror(shown: DifferenceMaps, env: Environment) -> None:
    """Every map lies where its photograph lies; mirrored, turned, swapped or a neighbour's it does not."""
    distances: defaultdict[str, list[float]] = defaultdict(list)
    for index, size in enumerate(SIZES):
        image_id = f"shape_{index:02d}"
        d = shown.load(env, image_id)
        candidates = {
            "own": d,
            "mirrored": d.flip(2),
            "upside down": d.flip(1),
            "turned": d.transpose(1, 2),
            "swapped": d.flip(0),
            "next": shown.load(env, f"shape_{(index + 1) % len(SIZES):02d}"),
        }
        for view in random_views(size, 8):
            there, inside = seen(env, shown, image_id, view)
            spread = there[:, inside].std(1)
            for name, candidate in candidates.items():
                found = to_view(candidate, view, shown.map_kind, stride=STRIDE)
                assert (found[:, ~inside] == 0).all()
                distances[name].append(float(((found - there)[:, inside].abs().mean(1) / spread).mean()))
    own = distances.pop("own")
    assert max(own) < 0.1
    for name, values in distances.items():
        assert min(values) > 1.5 * max(own), name
        assert np.mean(values) > 5 * np.mean(own), name


def test_a_marked_corner_stays_at_its_corner(shown: DifferenceMaps, env: Environment) -> None:
    for index in range(len(SIZES)):
        red = shown.load(env, f"shape_{index:02d}")[0]
        rows, columns = (max(length // 8, 1) for length in red.shape)
        corner = float(red[:rows, :columns].min())
        assert corner > max(float(part.max()) for part in (red[:, -columns:], red[-rows:]))


def test_cells_tile_the_photograph(shown: DifferenceMaps, env: Environment) -> None:
    for index, size in enumerate(SIZES):
        own, mirrored = (shown.view(size, mirror=mirror) for mirror in (False, True))
        assert own.resized == mirrored.resized
        assert (own.mirror, mirrored.mirror) == (False, True)
        d = shown.load(env, f"shape_{index:02d}")
        assert d.shape == (2, own.resized[0] // STRIDE, own.resized[1] // STRIDE)
        assert own.resized == (d.shape[1] * STRIDE, d.shape[2] * STRIDE)
        views = shown.nets.settings.views
        side = shown.settings.long_side or views.crop
        assert max(own.resized) == side // STRIDE * STRIDE
        if not views.stretch:
            assert abs(own.resized[0] - side * size[0] / max(size)) <= STRIDE
            assert abs(own.resized[1] - side * size[1] / max(size)) <= STRIDE


def test_masks_are_shown_with_the_photograph(finished_pairs: FinishedPairs) -> None:
    """Maps of the trained networks, photograph and mirror image, recomputed."""
    env, maps = finished_pairs.env, finished_pairs.made.maps
    system = maps.nets.image_system(env)
    for sample in maps.samples(env):
        size = read_image(sample.image).shape[:2]
        mean = []
        for mirror in (False, True):
            view = maps.view((size[0], size[1]), mirror=mirror)
            image = torch.from_numpy(read_image(sample.image)).permute(2, 0, 1)
            backbone = system.network.backbone
            shown = to_view(image, view, IMAGE, fill=[255 * value for value in backbone.mean])
            before, after = (
                to_view(torch.from_numpy(stage.load(env, sample.id)), view, LABELS, stride=STRIDE)[None]
                for stage in (maps.nets.before, maps.nets.after)
            )
            with torch.no_grad():
                levels = system.grid_levels({"image": backbone.normalise(shown / 255)[None], "labels": before})
                d = torch.cat(system.differences(levels, before, after))
            height, width = (side // STRIDE for side in view.resized)
            own = d[:, :height, :width]
            mean.append(own.flip(2) if mirror else own)
        assert not torch.allclose(mean[0], mean[1], atol=1e-4)
        torch.testing.assert_close(maps.load(env, sample.id), (mean[0] + mean[1]) / 2, atol=2e-3, rtol=2e-3)


def test_either_map_can_be_shown(finished_pairs: FinishedPairs) -> None:
    env, maps = finished_pairs.env, finished_pairs.made.maps
    names: tuple[Shown, ...] = ("before", "after")
    for index, name in enumerate(names):
        twin = maps.showing(name)
        assert twin.folder(env) == maps.folder(env)
        assert twin.complete(env)
        (layer,) = twin.layers(env, "shape_01").values()
        assert isinstance(layer, HeatMap)
        np.testing.assert_array_equal(layer.values, maps.load(env, "shape_01")[index].sigmoid().numpy())
    assert not torch.equal(*maps.load(env, "shape_01"))
    with pytest.raises(SettingsError, match=r"refined.*before, after"):
        maps.showing("refined")  # type: ignore[arg-type]


def test_maps_of_a_size(finished_pairs: FinishedPairs) -> None:
    env, maps = finished_pairs.env, finished_pairs.made.maps
    d = maps.load(env, "shape_02")
    assert torch.equal(maps.at_size(env, "shape_02", (d.shape[1], d.shape[2])), d)
    assert maps.at_size(env, "shape_02", (61, 97)).shape == (2, 61, 97)


def test_a_map_does_not_depend_on_others(finished_pairs: FinishedPairs) -> None:
    env, maps = finished_pairs.env, finished_pairs.made.maps
    make = maps.open(env)
    samples = maps.samples(env)
    for sample in (samples[3], samples[0], samples[3]):
        assert make(sample) == maps.path(env, sample.id).read_bytes()


def test_settings_and_costs(finished_pairs: FinishedPairs, tmp_path: Path) -> None:
    env, maps = finished_pairs.env, finished_pairs.made.maps
    larger = DifferenceMaps(maps.nets, DifferenceMapSettings(long_side=80))
    assert larger.fingerprint(env) != maps.fingerprint(env)
    assert maps.estimate(env).seconds > 0
    with pytest.raises(SettingsError, match=r"long_side: 7 is less than two cells .*label_stride is 4"):
        DifferenceMaps(maps.nets, DifferenceMapSettings(long_side=7))
    with pytest.raises(SettingsError, match="long_side: -1"):
        DifferenceMapSettings(-1)
    with pytest.raises(WorkspaceError, match=r"shape_00\.npz"):
        larger.load(env, "shape_00")
    # As many photographs at a time as there are threads: the order they are made in changes nothing.
    run_with_inputs(maps, env)
