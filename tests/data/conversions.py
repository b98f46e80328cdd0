"""Data sets to convert, and whether a copy is the same data set."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.images import content_digest
from tag2mask.data.masks import write_mask
from tag2mask.data.samples import Dataset
from tag2mask.data.writers import Target

CLASSES = ("zebra", "red car")  # not in alphabetical order
LAYOUTS: tuple[Target, ...] = ("csv", "one-hot", "voc", "npy", "coco", "folders")
NPY = {"labels_npy": "cls_labels.npy", "allow_pickle": True}

Row = tuple[str, str, str]

MANY_TAGS: tuple[Row, ...] = (
    ("beach/a.jpg", "zebra", "train"),
    ("beach/IMG 0001.JPG", "zebra,red car", "train"),
    ("Küste 2/b c.tar.png", "red car", "train"),
    ("empty.webp", "", "train"),
    ("val/a.jpeg", "red car,zebra", "val"),
    ("ü.bmp", "", "val"),
)
ONE_TAG: tuple[Row, ...] = tuple((path, labels.partition(",")[0], split) for path, labels, split in MANY_TAGS)


def write_data(root: Path, rows: Sequence[Row], *, masks: bool) -> Path:
    """A folder with a table; every photograph is another one. Masks show the tags, and unlabelled pixels at them."""
    rng = np.random.default_rng(3)
    table = [("image_path", "label", "split", "mask_path")]
    for index, (path, labels, split) in enumerate(rows):
        height, width = 12 + index, 20
        photograph = root / path
        photograph.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(photograph)
        mask_path = f"truth/{index}.png" if masks else ""
        if masks:
            mask = np.zeros((height, width), dtype=np.uint8)
            for label in filter(None, labels.split(",")):
                mask[rng.random(mask.shape) < 0.3] = CLASSES.index(label) + 1
            if labels:
                mask[rng.random(mask.shape) < 0.1] = UNLABELLED
            (root / "truth").mkdir(exist_ok=True)
            write_mask(root / mask_path, mask)
        table.append((path, labels, split, mask_path))
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    return root


def reading(layout: str) -> dict[str, Any]:
    return NPY if layout == "npy" else {}


def photographs(dataset: Dataset) -> dict[tuple[int, str], tuple[str, tuple[int, ...], bytes | None]]:
    """Id, tags and mask of every photograph, by list and content."""
    return {
        (number, content_digest(sample.image)): (
            sample.id,
            sample.tags,
            None if sample.mask is None else sample.mask.read().tobytes(),
        )
        for number, split in enumerate(dataset.splits)
        for sample in split
    }


def assert_same(copy: Dataset, original: Dataset, *, empty_masks: bool) -> None:
    """The same photographs, tags, classes, lists and masks; ids may have a prefix.

    With `empty_masks` a photograph without tags and mask may have got an empty mask.
    """
    assert copy.classes == original.classes
    assert len(copy.splits) == len(original.splits)
    found, expected = photographs(copy), photographs(original)
    assert found.keys() == expected.keys()
    for key, (sample_id, tags, mask) in expected.items():
        new_id, new_tags, new_mask = found[key]
        assert new_id == sample_id or new_id.endswith(f"/{sample_id}")
        assert new_tags == tags
        if empty_masks and mask is None and not tags:
            assert not any(new_mask or b"")
        else:
            assert new_mask == mask
