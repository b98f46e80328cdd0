"""Annotation files in COCO's format, made up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

rle = pytest.importorskip("pycocotools.mask")

H, W = 12, 16
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "emu"}]
"""Classes cat, dog, emu: 1, 2, 3."""


def image(number: int, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number:03}.jpg", "height": H, "width": W, **more}


def annotation(number: int, image_id: int, category: int = 3, segmentation: Any = None, **more: Any) -> dict[str, Any]:
    outline = {} if segmentation is None else {"segmentation": segmentation}
    return {"id": number, "image_id": image_id, "category_id": category, "bbox": [0, 0, 1, 1], **outline, **more}


def box(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    """The pixels of columns left..right - 1 and rows top..bottom - 1."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(region: npt.NDArray[Any], *, compressed: bool) -> dict[str, Any]:
    """Run-length code of a region, by its definition; compressed by pycocotools."""
    if compressed:
        code = rle.encode(np.asfortranarray(region.astype(np.uint8)))
        return {"size": list(region.shape), "counts": code["counts"].decode()}
    pixels, counts = region.astype(int).ravel(order="F").tolist(), [0]
    for before, pixel in zip([0, *pixels], pixels, strict=False):
        if pixel != before:
            counts.append(0)
        counts[-1] += 1
    return {"size": list(region.shape), "counts": counts}


def write(path: Path, images: Any, annotations: Any = (), categories: Any = CATEGORIES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": list(annotations), "categories": categories}))
    return path


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root
