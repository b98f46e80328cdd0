"""The demo data on disk, in the layout of PASCAL VOC's development kit with a tag table beside it."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tag2mask.base.files import ASIDE_SUFFIX, write_bytes
from tag2mask.data.classes import BACKGROUND
from tag2mask.data.demo.objects import DEMO_CLASSES
from tag2mask.data.demo.scenes import DEFAULT_LONG_SIDE, render_scene
from tag2mask.data.masks import encode_mask, read_mask
from tag2mask.errors import DataError, SettingsError

MARKER = "demo.json"
"""Says which settings a folder was written with, and whether it is finished."""

VERSION = 1
"""Goes up whenever the drawing changes, so that old and new pictures are never mixed in one folder."""

_JPEG_QUALITY = 92


def write_demo_data(
    folder: Path,
    *,
    train: int = 240,
    val: int = 60,
    seed: int = 0,
    long_side: int = DEFAULT_LONG_SIDE,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write drawn scenes with tags and exact masks.

    Written are ``JPEGImages/ID.jpg``, ``SegmentationClass/ID.png`` (palette PNG in VOC colours, 0 is background),
    ``ImageSets/Segmentation/train.txt`` and ``val.txt`` (ids; no ``val.txt`` when ``val`` is 0), ``tags.csv``
    (``image_path,label``, several labels separated by commas in one quoted field) and ``classes.txt``. Each file is
    written aside and renamed; a call that was killed goes on where it stopped, and a finished folder returns at once.

    Args:
        folder: where to write; must be missing, empty or a demo folder of the same settings.
        train: number of training pictures, at least 1.
        val: number of validation pictures, at least 0.
        seed: seed of the drawing, at least 0.
        long_side: longer side of the pictures in pixels, at least 32.
        progress: called as ``progress(done, total)`` after each picture.

    Returns:
        ``folder``.

    Raises:
        SettingsError: a number is out of its range.
        DataError: ``folder`` cannot be written, or holds something else or demo data of other settings.
    """
    for key, value, least in (("train", train, 1), ("val", val, 0), ("seed", seed, 0), ("long_side", long_side, 32)):
        if value < least:
            raise SettingsError(f"demo data: {key} must be at least {least}, got {value}")
    folder = Path(folder)
    settings = {
        "version": VERSION,
        "train": train,
        "val": val,
        "seed": seed,
        "long_side": long_side,
        "classes": list(DEMO_CLASSES),
    }
    if _is_finished(folder, settings):
        return folder
    try:
        _write(folder, settings, progress)
    except OSError as error:
        raise DataError(f"{folder}: demo data cannot be written: {error}") from error
    return folder


def _is_finished(folder: Path, settings: dict[str, Any]) -> bool:
    """True if a folder holds all of this demo data already; an error if it holds anything else."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder")
    marker = folder / MARKER
    if not marker.exists():
        strange = sorted(path.name for path in folder.iterdir() if path.suffix != ASIDE_SUFFIX)
        if strange:
            raise DataError(f"{folder}: holds other files ({strange[0]}); demo data needs a new or empty folder")
        return False
    try:
        state = json.loads(marker.read_text(encoding="utf-8"))
        finished, written = bool(state["finished"]), state["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{marker}: is not the marker of a demo data folder") from error
    if written != settings:
        other = [key for key in settings if not isinstance(written, dict) or written.get(key) != settings[key]]
        raise DataError(f"{folder}: holds demo data of other settings ({', '.join(other) or 'unknown keys'})")
    return finished


def _write(folder: Path, settings: dict[str, Any], progress: Callable[[int, int], None] | None) -> None:
    images, masks, lists = (folder / name for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"))
    for path in (folder, images, masks, lists):
        path.mkdir(parents=True, exist_ok=True)
    # the marker comes first: a folder that was begun is known as ours
    write_bytes(folder / MARKER, _marker(settings, finished=False))
    train, total = settings["train"], settings["train"] + settings["val"]
    ids = [f"demo_{index:05d}" for index in range(total)]
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("image_path", "label"))
    for index, name in enumerate(ids):
        photograph, mask = images / f"{name}.jpg", masks / f"{name}.png"
        if not (photograph.exists() and mask.exists()):
            scene = render_scene(settings["seed"], index, long_side=settings["long_side"])
            write_bytes(photograph, _jpeg(scene.image))
            write_bytes(mask, encode_mask(scene.mask))
            tags = scene.classes
        else:
            tags = _classes_in(mask)
        rows.writerow((f"{images.name}/{photograph.name}", ",".join(tags)))
        if progress is not None:
            progress(index + 1, total)
    write_bytes(lists / "train.txt", _lines(ids[:train]))
    if settings["val"]:
        write_bytes(lists / "val.txt", _lines(ids[train:]))
    write_bytes(folder / "tags.csv", table.getvalue().encode())
    write_bytes(folder / "classes.txt", _lines(DEMO_CLASSES))
    write_bytes(folder / MARKER, _marker(settings, finished=True))


def _marker(settings: dict[str, Any], *, finished: bool) -> bytes:
    return (json.dumps({"finished": finished, "settings": settings}, indent=2) + "\n").encode()


def _lines(entries: list[str] | tuple[str, ...]) -> bytes:
    return "".join(f"{entry}\n" for entry in entries).encode()


def _jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _classes_in(path: Path) -> tuple[str, ...]:
    """Names of the classes in a mask that was written before."""
    present = set(np.unique(read_mask(path)).tolist())
    return tuple(name for i, name in enumerate(DEMO_CLASSES, start=BACKGROUND + 1) if i in present)
