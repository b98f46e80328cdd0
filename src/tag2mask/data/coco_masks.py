"""True masks of COCO's instance annotations, drawn when they are asked for.

- The region of an object is the union of its polygons, or its run-length code. Objects are drawn from the largest to
  the smallest (pixels of the region; among equals in the order of their ids), so that a small object in front covers
  the large one behind it. Objects of one class merge.
- Crowds (`iscrowd` 1) become 255 wherever no single object is drawn: their outlines take the gaps along.
- Everything else is background. An image without annotations is background only.
- Where an annotation has no outline (a box alone) or one that cannot be used, the image has no true mask, and none
  either where the file does not give its height and width.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.errors import DataError

_RULE = 1  # to be raised with every change of how masks are drawn: digests, and with them results, depend on it
_COMPRESSION = 1  # all outlines of a large data set are packed at every start
_CORNERS = 3  # a polygon with fewer encloses nothing
_DIGEST_BYTES = 16

_Mask = npt.NDArray[np.uint8]


def _counts(code: str) -> list[int]:
    """Run lengths of COCO's compressed code.

    A number is a row of characters of 48 + 6 bits, the lowest first: five bits of value, and one that says whether more
    follow; the highest bit of value is the sign. From the fourth on, a number is the difference from the one two
    before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in code:
        bits = ord(character) - ord("0")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


def _from_runs(counts: Any, height: int, width: int) -> _Mask:
    """Region of a run-length code: runs of 0 and 1 in turn, down the columns. Returns 0 and 1, (H, W).

    Raises:
        ValueError: the runs are not as many pixels as the image.
    """
    # pycocotools writes past its memory on damaged codes; NumPy needs no more lines and cannot.
    runs = np.array(_counts(counts) if isinstance(counts, str) else counts)
    size = height * width
    if runs.ndim != 1 or runs.dtype.kind != "i" or runs.min() < 0 or runs.max() > size or runs.sum() != size:
        raise ValueError(f"a run-length code is not one of {height} x {width} pixels")
    return np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), runs).reshape(width, height).T


def _from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> _Mask:
    """Union of polygons. Returns 0 and 1, (H, W).

    Raises:
        ValueError: a polygon is no list of numbers, or reaches far out of the image.
        DataError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask as rle
    except ImportError as error:
        raise DataError("COCO's outlines are drawn by pycocotools: pip install 'tag2mask[coco]'") from error
    for polygon in polygons:
        points = np.array(polygon)
        # It takes memory by the length of an outline, and loses its way among numbers that are none.
        far = 2 * max(height, width)
        if points.ndim != 1 or points.dtype.kind not in "if" or not (np.abs(points) <= far).all():
            raise ValueError(f"an outline has points that are not in or near the image of {height} x {width} pixels")
    code = rle.merge(rle.frPyObjects(polygons, height, width))["counts"]
    return _from_runs(code.decode(), height, width)


@dataclass(frozen=True, slots=True)
class CocoMask:
    """A true mask that is drawn from an image's annotations (see the module's description).

    Attributes:
        source: the annotation file, for messages.
        name: the image's name in it, for messages.
        height: of the image, in pixels.
        width: of the image, in pixels.
        packed: the annotations, compressed JSON: a list of (class id, crowd or not, polygons or run-length code) in the
            order of their ids.
    """

    source: Path = field(compare=False)
    name: str = field(compare=False)
    height: int
    width: int
    packed: bytes

    def read(self) -> npt.NDArray[np.uint8]:
        """Class ids, uint8 of shape (H, W), 255 in crowds.

        Raises:
            DataError: an outline is damaged, or pycocotools is not installed.
        """
        mask = np.full((self.height, self.width), BACKGROUND, dtype=np.uint8)
        regions = []
        for class_id, crowd, outline in json.loads(zlib.decompress(self.packed)):
            try:
                region = (
                    _from_runs(outline["counts"], self.height, self.width)
                    if isinstance(outline, dict)
                    else _from_polygons(outline, self.height, self.width)
                )
            except ValueError as error:
                raise DataError(f"{self}: {error}") from error
            # A bit per pixel: large images have dozens of objects.
            regions.append((not crowd, -np.count_nonzero(region), class_id, np.packbits(region)))
        # Crowds first, then objects by size; sorting is stable, so among equals the order of the ids stays.
        for single, _, class_id, bits in sorted(regions, key=lambda region: region[:2]):
            region = np.unpackbits(bits, count=mask.size).reshape(mask.shape)
            mask[region.astype(bool)] = class_id if single else UNLABELLED
        return mask

    def size(self) -> tuple[int, int]:
        """Height and width that the annotation file gives the image."""
        return self.height, self.width

    def digest(self, of_file: Callable[[Path], str]) -> str:
        """Digest of the annotations, the ids of their classes, the size and the rule; no file enters."""
        digest = hashlib.blake2b(f"{_RULE} {self.height} {self.width} ".encode(), digest_size=_DIGEST_BYTES)
        # Of the text and not of the packed bytes, which differ between versions of zlib.
        digest.update(zlib.decompress(self.packed))
        return digest.hexdigest()

    def __str__(self) -> str:
        return f"{self.source}: image {self.name}"


class Annotation(NamedTuple):
    """One annotation of an image: its place in the order of drawing, and what it says."""

    order: int
    class_id: int
    crowd: bool
    segmentation: Any


def _outline(segmentation: Any, height: int, width: int) -> list[list[float]] | dict[str, Any] | None:
    """Usable part of a segmentation: polygons that enclose something or a run-length code; None if there is none.

    Raises:
        ValueError: it is neither, or a code of another size than the image's.
    """
    match segmentation:
        case None | []:
            return None
        case list() if all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in segmentation):
            return [polygon for polygon in segmentation if len(polygon) >= 2 * _CORNERS] or None
        case {"size": size, "counts": list() | str() as counts}:
            if size != [height, width]:
                raise ValueError(f"an outline of size {size}, but the image has {[height, width]} (height, width)")
            return {"counts": counts}
    raise ValueError("an outline is neither polygons nor a run-length code")


def pack_mask(entry: Any, annotations: list[Annotation], path: Path) -> CocoMask | None:
    """True mask of an image; None where it is not known.

    Raises:
        ValueError: an outline is of no known kind, or of another size than the image.
    """
    match entry:
        case {"height": int() as height, "width": int() as width} if height > 0 and width > 0:
            ordered = sorted(annotations, key=lambda annotation: annotation.order)
        case _:
            return None
    content = [(one.class_id, one.crowd, _outline(one.segmentation, height, width)) for one in ordered]
    if any(outline is None for *_, outline in content):
        return None
    packed = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), _COMPRESSION)
    return CocoMask(path, entry["file_name"], height, width, packed)
