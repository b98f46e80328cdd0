"""Model files: safetensors weights with a JSON header that tells how to rebuild and use the network."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tag2mask.base.settings import canonical
from tag2mask.errors import SettingsError, WeightsError
from tag2mask.networks.affinity_net import AffinityNet
from tag2mask.networks.backbones import Backbone, create_backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.segmenter import HeadSettings, Segmenter
from tag2mask.networks.tensor_file import read_tensor_header, reason, write_tensor_file
from tag2mask.networks.trunks import Trunks

FORMAT = "tag2mask-model"
VERSION = 1
KINDS = ("classifier", "segmenter", "affinity")

Network = Classifier | Segmenter | AffinityNet


@dataclass(frozen=True)
class ModelHeader:
    """Header of a model file.

    Args:
        kind: "classifier", "segmenter" or "affinity".
        classes: names of the foreground classes.
        backbone: timm's name, output stride and block of the features; of several networks side by side "trunks", a
            list of these with the long side that each sees.
        head: settings of the segmentation head, or an AffinityNet's blocks, widths and grid stride; of a classifier the
            width of its block, empty without one.
        inference: how the model is meant to be used on an image (scales and so on).
        weights: source and licence of the pretrained weights it started from.
        training: how it was trained, for people to read.
        saliency: whose saliency maps its training labels came from; empty without. Files of early versions lack it,
            which knew no saliency.
    """

    kind: str
    classes: tuple[str, ...]
    backbone: dict[str, Any]
    head: dict[str, Any]
    inference: dict[str, Any]
    weights: dict[str, Any]
    training: dict[str, Any]
    saliency: str = ""


def save_model(path: Path, network: Network, header: ModelHeader) -> None:
    """Writes a model file. The same network and header give the same bytes."""
    write_tensor_file(path, network, FORMAT, {"format": FORMAT, "version": VERSION, **canonical(header)})


def read_header(path: Path) -> ModelHeader:
    """The header of a model file.

    Raises:
        WeightsError: the file is missing, cut short, not a model of tag2mask's or of another version.
    """
    return read_tensor_header(path, FORMAT, VERSION, "model file", _checked_header)


def _checked_header(content: dict[str, Any]) -> ModelHeader:
    """The header from JSON.

    Raises:
        KeyError, TypeError, ValueError: an entry is missing or not of its kind.
    """
    fields = dataclasses.fields(ModelHeader)
    header = {field.name: content[field.name] for field in fields if field.default is dataclasses.MISSING}
    header["saliency"] = content.get("saliency", ModelHeader.saliency)
    for name in ("backbone", "head", "inference", "weights", "training"):
        if not isinstance(header[name], dict):
            raise TypeError(f"{name} is no mapping")
    if header["kind"] not in KINDS:
        raise ValueError(f"kind '{header['kind']}' is not one of {', '.join(KINDS)}")
    classes = header["classes"]
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise TypeError("classes is no list of names")
    if not isinstance(header["saliency"], str):
        raise TypeError("saliency is no text")
    return ModelHeader(**header | {"classes": tuple(classes)})


def load_model(
    path: Path, *, output_stride: int | None = None, device: torch.device | str = "cpu"
) -> tuple[Network, ModelHeader]:
    """Rebuilds a network from its model file, ready for inference.

    Args:
        path: the model file.
        output_stride: use the same weights at another output stride than the one they were trained at.
        device: where to put it.

    Returns:
        the network in evaluation mode, and the file's header.

    Raises:
        WeightsError: the file cannot be used.
    """
    header = read_header(path)
    try:
        network = _build(header, output_stride)
    except SettingsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:  # a damaged header makes timm and torch raise nearly every kind of exception
        raise WeightsError(f"{path}: no network can be built from the header ({reason(error)})") from error
    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: the weights do not fit the architecture in the header ({reason(error)})"
        ) from error
    return network.to(device).eval(), header


def _build(header: ModelHeader, output_stride: int | None) -> Network:
    if "trunks" in header.backbone:
        return _build_on_trunks(header, header.backbone["trunks"])
    backbone = _backbone(header.backbone, output_stride)
    if header.kind == "classifier":
        return Classifier(backbone, len(header.classes), **header.head)
    if header.kind == "affinity":
        return AffinityNet(backbone, **header.head)
    return Segmenter(backbone, len(header.classes) + 1, _head(header))


def _build_on_trunks(header: ModelHeader, parts: list[dict[str, Any]]) -> Network:
    trunks = Trunks([_backbone(part) for part in parts], [part["long_side"] for part in parts])
    if header.kind == "classifier":
        return Classifier(trunks, len(header.classes), **header.head)
    return Segmenter(trunks, len(header.classes) + 1, _head(header))


def _backbone(architecture: dict[str, Any], output_stride: int | None = None) -> Backbone:
    return create_backbone(
        architecture["name"],
        output_stride=output_stride or architecture["output_stride"],
        block=architecture["block"],
        weights="none",
    )


def _head(header: ModelHeader) -> HeadSettings:
    return HeadSettings(**header.head | {"dilations": tuple(header.head["dilations"])})
