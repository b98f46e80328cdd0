"""Masks of photographs by a model file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tag2mask.api.model import load_model
from tag2mask.base.files import atomic_path, write_bytes
from tag2mask.data.images import read_image
from tag2mask.data.masks import encode_mask, overlay
from tag2mask.data.photographs import find_photographs
from tag2mask.data.records import tag_ids
from tag2mask.data.tag_table import LabelRow, read_label_table
from tag2mask.engine.progress import Reporter
from tag2mask.engine.stage import map_in_order
from tag2mask.errors import DataError


@dataclass(frozen=True)
class Predicted:
    """Files that `predict` wrote for one image."""

    photograph: Path
    mask: Path
    overlay: Path


def predict(
    model: str | Path,
    photographs: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    tags: str | Path | None = None,
    use_crf: bool | None = None,
    device: str = "auto",
    precision: str = "32-true",
    threads: int = 0,
    quiet: bool = False,
) -> list[Predicted]:
    """Masks and overlays of photographs at their own size.

    Args:
        model: a run's ``model.safetensors``.
        photographs: files and folders; folders are searched with their subfolders.
        out: gets ``masks/`` (palette PNG) and ``overlays/`` (JPEG), named like the photographs.
        tags: CSV of image_path,label: masks are restricted to a photograph's tags.
        use_crf: refine with the dense CRF; as the model's run did by default.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "32-true" or "bf16-mixed".
        threads: of the processor; 0 takes all.
        quiet: no progress.

    Returns:
        the files written, in the order of the photographs.

    Raises:
        Tag2MaskError: a file is missing or unreadable, or two photographs would give one mask.
    """
    trained = load_model(model, device=device, precision=precision, threads=threads)
    settings = trained.prediction_settings(use_crf=use_crf)
    if isinstance(photographs, str | Path):
        photographs = [photographs]
    names = find_photographs([Path(path) for path in photographs], out=Path(out))
    known = _known_tags(Path(tags), trained.classes) if tags else None

    def make(named: tuple[str, Path]) -> tuple[Predicted, tuple[int, ...]]:
        name, path = named
        class_ids = None if known is None else known(path, name)
        image = read_image(path)
        mask = trained.mask(image, settings, class_ids)
        mask_path, overlay_path = Path(out) / "masks" / f"{name}.png", Path(out) / "overlays" / f"{name}.jpg"
        write_bytes(mask_path, encode_mask(mask))
        overlay_path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(overlay_path) as aside:
            Image.fromarray(overlay(image, mask)).save(aside, format="JPEG", quality=90)
        return Predicted(path, mask_path, overlay_path), image.shape[:2]

    written = []
    reporter = Reporter(quiet=quiet)
    with reporter.task("predict", len(names)) as task:
        for predicted, (height, width) in map_in_order(make, names.items(), trained.runtime.on_device_at_a_time):
            if height * width > settings.inference.max_pixels:
                reporter.say(
                    f"{predicted.photograph}: {width}x{height} was segmented at {settings.inference.max_pixels} pixels "
                    "and the result upsampled"
                )
            written.append(predicted)
            task.advance()
    return written


def _known_tags(table: Path, classes: Sequence[str]) -> Callable[[Path, str], tuple[int, ...]]:
    """Function of (image, name) that gives the class ids the table tags it with."""
    rows = {Path(row.image_path).with_suffix("").as_posix(): row for row in read_label_table(table)}
    by_stem: dict[str, list[LabelRow]] = {}
    for name, row in rows.items():
        by_stem.setdefault(Path(name).name, []).append(row)

    def tags(path: Path, name: str) -> tuple[int, ...]:
        found = [rows[name]] if name in rows else by_stem.get(path.stem, [])
        if len(found) != 1:
            lines = ", ".join(row.where for row in found)
            raise DataError(f"{table}: {f'several rows for {path} ({lines})' if found else f'no row for {path}'}")
        return tag_ids(found[0].labels, classes, found[0].where)

    return tags
