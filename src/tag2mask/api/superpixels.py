"""Superpixels of photographs alone: no tags and no trained model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from tag2mask.base.files import atomic_path, write_bytes
from tag2mask.data.images import read_image
from tag2mask.data.label_maps import draw_label_map, encode_label_map
from tag2mask.data.photographs import find_photographs
from tag2mask.engine.environment import Runtime
from tag2mask.engine.progress import Reporter
from tag2mask.engine.stage import map_in_order
from tag2mask.networks.backbones import list_backbones
from tag2mask.networks.vit_backbone import KeyCentre
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.superpixel.superpixels import SuperpixelSettings, discover, open_transformer

_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Superpixels:
    """Files that `superpixels` wrote for one image.

    Attributes:
        photograph: the image file.
        labels: 16-bit greyscale PNG of its size, superpixels from 0.
        boundaries: JPEG of the image with the superpixels' borders.
        count: number of superpixels.
    """

    photograph: Path
    labels: Path
    boundaries: Path
    count: int


def superpixels(
    photographs: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    tau: float = 0.6,
    backbone: str = "vit_small_patch14_dinov2",
    weights: str = "auto",
    long_side: int = 448,
    centre: KeyCentre = "bias",
    highest_first: bool = False,
    use_crf: bool = True,
    device: str = "auto",
    precision: str = "32-true",
    threads: int = 0,
    quiet: bool = False,
) -> list[Superpixels]:
    """Superpixels of photographs, discovered in the keys of a self-supervised transformer; nothing is trained.

    Kim, "A Study on Weakly Supervised Semantic Segmentation Using Image Masking and Clustering" (dissertation, Seoul
    National University, 2022), section 3.3.1.

    Args:
        photographs: files and folders; folders are searched with their subfolders.
        out: gets ``labels/`` (16-bit PNG) and ``boundaries/`` (JPEG), named like the photographs.
        tau: similarity above which patches go together, at least 0 and below 1; the higher, the more superpixels.
        backbone: timm's name of a plain vision transformer.
        weights: "auto" (an installed weight package, else timm's hub), "package", "hub", "none" or a path.
        long_side: long side in pixels at which the transformer sees a photograph; 0 takes the photograph's own.
        centre: subtract the layer's key bias ("bias"), the mean key ("mean") or nothing ("none").
        highest_first: take seeds of the highest degree first.
        use_crf: bring superpixels to the photograph's edges with the dense CRF.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "32-true" or "bf16-mixed".
        threads: of the processor; 0 takes all.
        quiet: no progress.

    Returns:
        the files written, in the order of the photographs.

    Raises:
        Tag2MaskError: a file is missing or unreadable, two photographs would give one label map, or a setting cannot
            be.

    Example:
        >>> found = tag2mask.superpixels("photos", "superpixels")  # doctest: +SKIP
        >>> found[0].count  # doctest: +SKIP
    """
    settings = SuperpixelSettings(
        backbone=_transformer(backbone, weights),
        long_side=long_side,
        tau=tau,
        centre=centre,
        highest_first=highest_first,
    )
    if not use_crf:
        settings = replace(settings, crf=replace(settings.crf, iterations=0))
    runtime = Runtime(device=device, precision=precision, threads=threads).resolved()
    runtime.apply()
    if isinstance(photographs, str | Path):
        photographs = [photographs]
    names = find_photographs([Path(path) for path in photographs], out=Path(out))
    network = open_transformer(settings, runtime)

    def make(named: tuple[str, Path]) -> tuple[Superpixels, tuple[int, ...]]:
        name, path = named
        image = read_image(path)
        labels = discover(network, torch.from_numpy(image).permute(2, 0, 1), settings, runtime)
        found = Superpixels(
            photograph=path,
            labels=Path(out) / "labels" / f"{name}.png",
            boundaries=Path(out) / "boundaries" / f"{name}.jpg",
            count=int(labels.max()) + 1,
        )
        write_bytes(found.labels, encode_label_map(labels, path))
        with atomic_path(found.boundaries) as aside:
            Image.fromarray(draw_label_map(image, labels)).save(aside, format="JPEG", quality=_JPEG_QUALITY)
        return found, labels.shape

    written = []
    reporter = Reporter(quiet=quiet)
    with reporter.task("superpixels", len(names)) as task:
        for found, (height, width) in map_in_order(make, names.items(), runtime.on_device_at_a_time):
            if height * width > settings.max_pixels and (use_crf or not long_side):
                reporter.say(
                    f"{found.photograph}: {width}x{height} was worked on at {settings.max_pixels} pixels and the "
                    "superpixels enlarged"
                )
            written.append(found)
            task.advance()
    return written


def _transformer(name: str, weights: str) -> BackboneSettings:
    """Settings of a backbone whose patch size, its stride, follows from its name; a wrong name is told by them."""
    strides = next((info.output_strides for info in list_backbones(name.partition(".")[0])), (0,))
    return BackboneSettings(name=name, output_stride=strides[0], weights=weights)
