import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF

from tag2mask.data.images import read_image
from tag2mask.data.label_maps import draw_label_map, read_label_map
from tag2mask.data.layers import Picture
from tag2mask.data.view import SUPERPIXELS
from tag2mask.engine.environment import Environment
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.evidence.superpixel import discover_superpixels, label_superpixels
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.superpixel import superpixels as module
from tag2mask.stages.superpixel.superpixels import (
    MakeSuperpixels,
    SuperpixelSettings,
    discover,
    open_transformer,
    superpixels,
)
from tag2mask.stages.views import load_image
from tests.builders import shapes_environment

TINY_VIT = BackboneSettings(name="vit_tiny_patch16_224", output_stride=16, block="blocks.1", weights="none")
SETTINGS = SuperpixelSettings(backbone=TINY_VIT, long_side=80, tau=0.1)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Photographs with the superpixels of a small random transformer."""
    environment = shapes_environment(tmp_path_factory.mktemp("superpixels"), threads=1)
    superpixels(SETTINGS).run(environment)
    return environment


def test_superpixels_are_those_of_the_kernels(env: Environment) -> None:
    stage, network = superpixels(SETTINGS), open_transformer(SETTINGS, env.runtime)
    counts = set()
    for sample in stage.samples(env):
        image = load_image(sample)
        height, width = (round(side * 80 / image.shape[2] / 16) * 16 for side in image.shape[1:])
        shown = TF.resize(image, [height, width], antialias=True)[None].float() / 255
        with torch.no_grad():
            keys = network.keys(network.normalise(shown))[0]
        patches = discover_superpixels(keys.flatten(1).T, 0.1).view(keys.shape[1:]).numpy()
        factor = max(image.shape[1:]) / 500
        expected = label_superpixels(
            np.ascontiguousarray(image.permute(1, 2, 0)), patches, gaussian_sxy=10 * factor, bilateral_sxy=20 * factor
        )
        found = stage.load(env, sample.id)
        assert found.dtype == torch.int32
        assert found.shape == image.shape[1:]
        np.testing.assert_array_equal(found, expected)
        counts.add(int(found.max()) + 1)
        np.testing.assert_array_equal(np.unique(found), np.arange(int(found.max()) + 1))
    assert max(counts) > 1


def test_the_stage_reads_photographs_alone(env: Environment) -> None:
    stage = superpixels(SETTINGS)
    assert stage.reads == {"images"}
    assert stage.map_kind is SUPERPIXELS
    assert stage.identity(env) == TINY_VIT.identity
    assert isinstance(superpixels(SETTINGS, "val"), MakeSuperpixels)
    assert superpixels(SETTINGS, "val").split == "val"


@pytest.mark.parametrize(
    "changes",
    [
        {"tau": 0.5},
        {"centre": "mean"},
        {"highest_first": True},
        {"long_side": 160},
        {"confidence": 0.9},
        {"crf": CRFSettings(iterations=0)},
        {"max_pixels": 900},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_reaches_superpixels(env: Environment, changes: dict[str, Any]) -> None:
    network = open_transformer(SETTINGS, env.runtime)
    changed = dataclasses.replace(SETTINGS, **changes)
    images = [load_image(sample) for sample in superpixels(SETTINGS).samples(env)]
    before, after = ([discover(network, image, own, env.runtime) for image in images] for own in (SETTINGS, changed))
    assert any(not np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(one.shape == other.shape for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("long_side", "size", "resized"),
    [
        (448, (375, 500), (336, 448)),
        (448, (500, 333), (448, 294)),  # 298 is nearest to 294
        (450, (500, 500), (448, 448)),
        (0, (60, 100), (56, 98)),
        (0, (3000, 4000), (868, 1148)),  # a million pixels
        (448, (4, 4000), (14, 448)),
    ],
)
def test_the_transformer_sees_whole_patches(long_side: int, size: tuple[int, int], resized: tuple[int, int]) -> None:
    view = SuperpixelSettings(long_side=long_side).view(size)
    assert view.resized == view.crop[2:] == resized
    assert view.crop[:2] == (0, 0)


def test_layers_show_the_photograph_with_borders(env: Environment) -> None:
    stage = superpixels(SETTINGS)
    (name, layer), *others = stage.layers(env, "shape_00").items()
    assert isinstance(layer, Picture)
    assert (name, others) == ("", [])
    image = read_image(stage.samples(env)[0].image)
    np.testing.assert_array_equal(layer.rgb, draw_label_map(image, stage.load(env, "shape_00").numpy()))


def test_files_are_16_bit_maps(env: Environment) -> None:
    stage = superpixels(SETTINGS)
    path = stage.path(env, "shape_01")
    assert path.suffix == ".png"
    np.testing.assert_array_equal(read_label_map(path), stage.load(env, "shape_01"))


def test_a_second_run_makes_the_same_bytes(env: Environment, tmp_path: Path) -> None:
    again = shapes_environment(tmp_path, threads=1)
    superpixels(SETTINGS).run(again)
    for sample in superpixels(SETTINGS).samples(env):
        one, other = (superpixels(SETTINGS).path(place, sample.id) for place in (env, again))
        assert one.read_bytes() == other.read_bytes()


def test_a_damaged_file_is_named(env: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = superpixels(SETTINGS)
    monkeypatch.setattr(stage, "path", lambda *_: tmp_path / "shape_00.png")
    for content in (None, b"", b"no image"):
        if content is not None:
            (tmp_path / "shape_00.png").write_bytes(content)
        with pytest.raises(WorkspaceError, match=r"shape_00\.png: .*delete the folder"):
            stage.load(env, "shape_00")


def test_estimates_grow_with_the_crf(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "seconds_per_image", lambda *_, **__: 0.5)
    plain = superpixels(dataclasses.replace(SETTINGS, crf=CRFSettings(iterations=0))).estimate(env)
    assert plain.seconds == 0.5 * 6
    assert plain.bytes > 0
    assert superpixels(SETTINGS).estimate(env).seconds > plain.seconds


def test_defaults_are_the_papers_constants() -> None:
    crf = SuperpixelSettings().crf
    assert (crf.iterations, crf.gaussian_sxy, crf.gaussian_weight) == (20, 10, 10)
    assert (crf.bilateral_sxy, crf.bilateral_srgb, crf.bilateral_weight) == (20, 5, 10)
    assert SuperpixelSettings().confidence == 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": BackboneSettings()}, "'tf_efficientnet_lite0' is no vision transformer"),
        ({"long_side": -1}, "superpixels.long_side: -1 is negative"),
        ({"tau": 1.0}, "superpixels.tau: 1.0 must be at least 0 and below 1"),
        ({"tau": float("nan")}, "superpixels.tau"),
        ({"centre": "median"}, "unknown superpixels.centre 'median'; choices: bias, mean, none"),
        ({"confidence": 0.0}, "superpixels.confidence"),
        ({"max_pixels": 0}, "superpixels.max_pixels"),
    ],
)
def test_impossible_settings_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SuperpixelSettings(**changes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_superpixels_on_a_gpu(tmp_path: Path) -> None:
    host, device = (shapes_environment(tmp_path, threads=1, device=name) for name in ("cpu", "cuda"))
    for sample in superpixels(SETTINGS).samples(host):
        image = load_image(sample)
        one, other = (
            discover(open_transformer(SETTINGS, place.runtime), image, SETTINGS, place.runtime)
            for place in (host, device)
        )
        assert (one == other).mean() > 0.95
