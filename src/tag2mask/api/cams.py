"""Class activation maps of one image, by a classifier of tag2mask's or of timm."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm.data
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from tag2mask.api.model import ImageLike, Model, as_image, load_model
from tag2mask.data.view import IMAGE, tiled_view, to_view, whole_view
from tag2mask.errors import SettingsError, WeightsError, unknown_choice
from tag2mask.evidence.cam import Rule, merge_score_maps
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.inference import ScaleSettings, image_scales

_SUREST = 3  # classes that are shown unless others are asked for
_SIDES = 32  # an image's sides are multiples of it, which every network of timm takes


@dataclass(frozen=True)
class ActivationMaps:
    """Class activation maps of one image.

    Attributes:
        classes: names, or numbers where the model has no names, in the order of the maps.
        scores: the classifier's score (logit) of each class, float32 (P,).
        maps: float32 (P, H, W) in [0, 1], each divided by its own maximum.
    """

    classes: tuple[str, ...]
    scores: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32]


@torch.no_grad()
def cams(
    model: Model | nn.Module | str | Path,
    image: ImageLike,
    classes: Sequence[str | int] | None = None,
    *,
    scales: Sequence[float] = (1.0,),
    mirror: bool = True,
    rule: Rule = "sum",
    long_side: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    threads: int = 0,
) -> ActivationMaps:
    """Class activation maps (Zhou et al., CVPR 2016) of any timm classifier, or of one that tag2mask trained.

    A classifier that pools its last features and puts a linear layer on them says at every position what it would say
    if the whole image looked like that position: its head is read there. Of other heads (attention pooling, class
    tokens) this is an approximation, with the head on every patch by itself.

    Args:
        model: a model of timm in any mode, a trained classifier as `load_model` gives it, or its file.
        image: a file, a Pillow image, an array (H, W, 3) or (H, W), or a tensor (3, H, W) of 8 bits.
        classes: names of a trained classifier's classes, or numbers from 0; the three surest by default.
        scales: sizes, as factors; maps are merged as for training (`evidence.cam.merge_score_maps`).
        mirror: show the mirror image too.
        rule: "sum" over scales and mirror images, or "max".
        long_side: in pixels at scale 1; 0 takes what the model was trained on. Networks of a fixed input size are shown
            a square of it, at scale 1 alone.
        device: "auto", "cpu", "cuda" or "cuda:1"; a model in memory stays where it is.
        precision: "32-true" or "bf16-mixed"; of a model in memory its own.
        threads: of the processor, for a file; 0 takes all.

    Returns:
        maps at the image's size.

    Raises:
        WeightsError: the model is no classifier.
        SettingsError: there is no such class.
        DataError: the image cannot be read.

    Example:
        >>> found = tag2mask.cams(timm.create_model("resnet50", pretrained=True), "photo.jpg")  # doctest: +SKIP
        >>> found.classes, found.maps.shape  # doctest: +SKIP
    """
    if isinstance(model, str | Path):
        model = load_model(model, device=device, precision=precision, threads=threads)
    pixels = torch.from_numpy(as_image(image)).permute(2, 0, 1)
    if isinstance(model, Model):
        names: tuple[str, ...] = model.classes
        settings = ScaleSettings(long_side or _trained_on(model), tuple(scales), mirror)
        scores, maps = _of_ours(model, pixels, settings)
    elif hasattr(model, "forward_features") and hasattr(model, "forward_head"):
        scores, maps = _of_timm(model, pixels, tuple(scales), mirror=mirror, long_side=long_side)
        names = tuple(str(number) for number in range(len(scores)))
    else:
        raise WeightsError(f"{type(model).__name__}: neither a classifier of timm's (forward_head) nor of tag2mask's")
    chosen = _chosen(classes, names, scores)
    merged = merge_score_maps([one[:, chosen] for one in maps], (pixels.shape[1], pixels.shape[2]), rule).cpu()
    return ActivationMaps(tuple(names[index] for index in chosen), scores[chosen].cpu().numpy(), merged.numpy())


def _trained_on(model: Model) -> int:
    return int(model.header.inference.get("long_side", 0))


def _of_ours(model: Model, image: Tensor, settings: ScaleSettings) -> tuple[Tensor, list[Tensor]]:
    """Scores (C,) and score maps per scale, (1 or 2, C, h, w), of a trained classifier."""
    network = model.network
    if not isinstance(network, Classifier):
        raise WeightsError(f"{model!r}: activation maps are a classifier's; a run's folder has the segmenter's model")
    model.runtime.apply()
    maps = []
    for batch in image_scales(image, network.backbone, settings, model.runtime.torch_device):
        with model.runtime.autocast():
            maps.append(network.score_maps(batch).float())
    return torch.stack([one.mean((0, 2, 3)) for one in maps]).mean(0), maps


def _of_timm(
    model: Any, image: Tensor, scales: Sequence[float], *, mirror: bool, long_side: int
) -> tuple[Tensor, list[Tensor]]:
    """The same of a model of timm, which is left in the mode it came in."""
    config = timm.data.resolve_model_data_config(model)
    side, parameter = long_side or max(config["input_size"][1:]), next(model.parameters())
    fixed = bool(getattr(model, "pretrained_cfg", {}).get("fixed_input_size", False))
    size = (image.shape[1], image.shape[2])
    was_training = model.training
    model.eval()
    maps, scores = [], []
    try:
        for scale in (1.0,) if fixed else scales:
            cells = max(1, round(side * scale / _SIDES))
            view = whole_view(size, long_side=side, stretch=True) if fixed else tiled_view(size, _SIDES, cells)
            shown = transforms.normalize(
                to_view(image, view, IMAGE, fill=0) / 255, list(config["mean"]), list(config["std"])
            )[None].to(parameter.device, parameter.dtype)
            batch = torch.cat([shown, shown.flip(3)]) if mirror else shown
            told, seen = score_maps(model, batch)
            scores.append(told.float().mean(0))
            maps.append(seen.float())
    finally:
        model.train(was_training)
    return torch.stack(scores).mean(0), maps


def score_maps(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scores that a timm classifier gives images, and those of its head at every position of its last features.

    Args:
        model: in evaluation mode.
        images: normalised, (N, 3, H, W).

    Returns:
        scores (N, classes) and score maps (N, classes, h, w).

    Raises:
        WeightsError: the model has no classifying layer, or features that are no map.
    """
    if not getattr(model, "num_classes", 0):
        raise WeightsError(f"{type(model).__name__}: has no classifying layer; create it with num_classes")
    features = model.forward_features(images)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise WeightsError(f"{type(model).__name__}: its features are no map, so it has no activation maps")
    told: Tensor = model.forward_head(features)
    if features.ndim == 3:
        return told, _of_tokens(model, features, images)
    channels = getattr(model, "num_features", features.shape[1])
    last = features.shape[3] == channels != features.shape[1]
    cells = features if last else features.permute(0, 2, 3, 1)
    count, rows, columns, width = cells.shape
    ones = cells.reshape(-1, 1, 1, width) if last else cells.reshape(-1, width, 1, 1)
    seen: Tensor = model.forward_head(ones)
    return told, seen.reshape(count, rows, columns, -1).permute(0, 3, 1, 2)


def _of_tokens(model: Any, tokens: Tensor, images: Tensor) -> Tensor:
    """Score maps of a transformer: its head on every patch, class and register tokens left out."""
    patches = tokens[:, getattr(model, "num_prefix_tokens", 0) :]
    count = patches.shape[1]
    rows = max(1, round((count * images.shape[2] / images.shape[3]) ** 0.5))
    if count % rows:
        raise WeightsError(f"{type(model).__name__}: its {count} tokens are no grid of patches")
    norm = getattr(model, "fc_norm", nn.Identity())
    # One by one, as a head with a batch norm takes them.
    scores: Tensor = model.head(norm(patches).flatten(0, 1))
    return scores.unflatten(0, (len(tokens), count)).transpose(1, 2).reshape(len(tokens), -1, rows, count // rows)


def _chosen(classes: Sequence[str | int] | None, names: Sequence[str], scores: Tensor) -> list[int]:
    """Positions of the classes that are asked for."""
    if classes is None:
        return [int(index) for index in scores.argsort(descending=True)[:_SUREST]]
    chosen = []
    for given in classes:
        if isinstance(given, str) and given in names:
            chosen.append(names.index(given))
        elif isinstance(given, int) and 0 <= given < len(names):
            chosen.append(given)
        else:
            shown = names if len(names) <= 50 else [f"0 to {len(names) - 1}"]
            raise SettingsError(unknown_choice("class", str(given), shown))
    return chosen
