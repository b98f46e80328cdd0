"""Writers of all layouts: where images, masks, tags and lists lie in each, as its readers look for them."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

import numpy as np
import numpy.typing as npt

from tag2mask.base.files import atomic_path, naming, write_bytes
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.cls_labels import USUAL_VECTORS, write_cls_labels
from tag2mask.data.datasets import Layout
from tag2mask.data.images import IMAGE_SUFFIXES, image_size
from tag2mask.data.masks import write_mask
from tag2mask.data.records import CLASSES_FILE, is_photograph
from tag2mask.data.samples import Dataset, Sample, Split
from tag2mask.errors import DataError

Target = Literal["csv", "one-hot", "folders", "voc", "coco", "npy"]

SPLITS = ("train", "val")
"""The names of lists that every reader looks for."""

_SEPARATORS = ",;|"  # of labels in a field


class Writer(ABC):
    """Knows where things lie in a layout, and writes what is not a photograph.

    Args:
        to: what the user calls the layout.
        root: folder to write to.
        dataset: what is written.
        say: told in one line what the layout cannot hold and loses.
    """

    layout: Layout
    last: str  # the file or folder in the root by which readers know the layout
    any_name = False
    both_lists = True

    def __init__(self, to: str, root: Path, dataset: Dataset, say: Callable[[str], None]) -> None:
        self.to = to
        self.root = root
        self.dataset = dataset
        self.say = say

    @property
    def reading(self) -> dict[str, Any]:
        """Options of `open_dataset` that read what was written."""
        return {"layout": self.layout}

    def check(self) -> None:
        """Raises DataError if the layout cannot hold the data set. Nothing has been written yet."""
        if not self.any_name:
            self._refuse(
                lambda sample: not is_photograph(sample.image),
                "have a name that this layout's reader does not look for",
            )
        if not self.both_lists and self.dataset.val is not None:
            self._refuse(
                lambda sample: all(sample.id in split.by_id for split in self.dataset.splits),
                "are on both lists",
            )

    @abstractmethod
    def photograph(self, split: str, sample: Sample) -> str:
        """Path of an image within the folder."""

    def tags(self, sample: Sample) -> tuple[int, ...]:
        """Tags that a reader of the folder finds."""
        return sample.tags

    @abstractmethod
    def mask(self, sample: Sample, mask: npt.NDArray[np.uint8]) -> None:
        """Takes the true mask of an image."""

    @abstractmethod
    def finish(self) -> None:
        """Writes tables and lists, by which the folder becomes a data set."""

    def error(self, why: str) -> DataError:
        """The error that the layout cannot hold the data set."""
        return DataError(f"{self.dataset.root}: cannot be written as {self.to}: {why}")

    def _refuse(self, strange: Callable[[Sample], bool], why: str) -> None:
        samples = self.samples()
        found = [sample for _, sample in samples if strange(sample)]
        if found:
            raise self.error(f"{len(found)} of {len(samples)} photographs {why}; the first is {found[0].image}")

    def _write_lines(self, name: str, lines: Iterable[str]) -> None:
        write_bytes(self.root / name, "".join(f"{line}\n" for line in lines).encode())

    def _write_table(self, name: str, rows: Iterable[Sequence[str]]) -> None:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        write_bytes(self.root / name, table.getvalue().encode())

    def splits(self) -> Iterable[tuple[str, Split]]:
        """The lists by the names they are written under."""
        return zip(SPLITS, self.dataset.splits, strict=False)

    def samples(self) -> list[tuple[str, Sample]]:
        """Every image once, with a list that it is on."""
        return list({sample.id: (name, sample) for name, split in self.splits() for sample in split}.values())

    def _labels(self, sample: Sample) -> str:
        """Tags in one field. A name with a separator in it is given by its number, which readers take as well."""
        names = (self.dataset.label_names[tag] for tag in sample.tags)
        return ",".join(
            str(tag) if any(mark in name for mark in _SEPARATORS) else name
            for tag, name in zip(sample.tags, names, strict=True)
        )


class CsvWriter(Writer):
    """Images under their ids, masks in a folder of their own, a table with a row per image."""

    layout = "csv"
    last = "labels.csv"
    any_name = True

    def photograph(self, split: str, sample: Sample) -> str:
        return f"{sample.id}{sample.image.suffix}"

    def mask(self, sample: Sample, mask: npt.NDArray[np.uint8]) -> None:
        write_mask(new_file(self.root / self._mask_path(sample)), mask)

    def finish(self) -> None:
        rows = [
            (
                self.photograph(name, sample),
                *self._fields(sample),
                self._mask_path(sample) if sample.mask is not None else "",
                name,
            )
            for name, split in self.splits()
            for sample in split
        ]
        self._write_lines(CLASSES_FILE, self.dataset.classes)
        self._write_table(self.last, [("image_path", *self._columns(), "mask_path", "split"), *rows])

    def _mask_path(self, sample: Sample) -> str:
        return f"masks/{sample.id}.png"

    def _columns(self) -> Sequence[str]:
        return ("label",)

    def _fields(self, sample: Sample) -> Sequence[str]:
        return (self._labels(sample),)


class OneHotWriter(CsvWriter):
    """The same with a column of 0 and 1 per class."""

    def _columns(self) -> Sequence[str]:
        return self.dataset.classes

    def _fields(self, sample: Sample) -> Sequence[str]:
        return [f"{present:.0f}" for present in self.dataset.tag_vector(sample)]


class FoldersWriter(Writer):
    """A folder per class, in a folder per list."""

    layout = "folders"
    last = CLASSES_FILE
    both_lists = False

    def check(self) -> None:
        super().check()
        self._refuse(
            lambda sample: len(sample.tags) > 1, "have several tags, and one that lies in a folder has one at most"
        )
        for name in self.dataset.classes:
            if "/" in name or "\\" in name or name.startswith("."):
                raise self.error(f"the class '{name}' cannot be the name of a folder")
        masks = sum(sample.mask is not None for _, sample in self.samples())
        if masks:
            self.say(f"{self.to}: {masks} true masks are left out, this layout has no place for them")

    def photograph(self, split: str, sample: Sample) -> str:
        (name,) = (self.dataset.label_names[tag] for tag in sample.tags or (BACKGROUND,))
        return f"{split}/{name}/{sample.id}{sample.image.suffix}"

    def mask(self, sample: Sample, mask: npt.NDArray[np.uint8]) -> None:
        """Masks are left out, as `check` has said."""

    def finish(self) -> None:
        self._write_lines(CLASSES_FILE, self.dataset.classes)


class VocWriter(Writer):
    """PASCAL VOC's folders, with a table of tags."""

    layout = "voc"
    last = "ImageSets"

    def photograph(self, split: str, sample: Sample) -> str:
        return f"JPEGImages/{sample.id}{sample.image.suffix}"

    def mask(self, sample: Sample, mask: npt.NDArray[np.uint8]) -> None:
        write_mask(new_file(self.root / "SegmentationClass" / f"{sample.id}.png"), mask)

    def finish(self) -> None:
        self._write_lines(CLASSES_FILE, self.dataset.classes)
        self._write_tags()
        for name, split in self.splits():
            lines = (self._line(name, sample) for sample in split)
            self._write_lines(f"ImageSets/Segmentation/{name}.txt", lines)

    def _write_tags(self) -> None:
        rows = [(self.photograph(name, sample), self._labels(sample)) for name, sample in self.samples()]
        self._write_table("tags.csv", [("image_path", "label"), *rows])

    def _line(self, split: str, sample: Sample) -> str:
        """The bare id where a reader finds the image by it, else the image's path."""
        strange = sample.id.lower().endswith(IMAGE_SUFFIXES) or sample.id.startswith("JPEGImages/")
        return f"/{self.photograph(split, sample)}" if strange else sample.id


class NpyWriter(VocWriter):
    """The same with the tags in a pickled dictionary of vectors."""

    @property
    def reading(self) -> dict[str, Any]:
        return {"layout": "voc", "labels_npy": USUAL_VECTORS, "allow_pickle": True}

    def _write_tags(self) -> None:
        write_cls_labels(self.root / USUAL_VECTORS, self.dataset)


class CocoWriter(Writer):
    """Images in one folder, and for each list a JSON file of annotations.

    A mask becomes one region per class, as run-length code. COCO has no unlabelled pixels. Its crowd regions come
    nearest, which are ignored in measuring a class: the unlabelled pixels of an image become one for each of its
    classes. An image without classes has none to give them to; there they become background.
    """

    layout = "coco"
    last = "annotations"

    def __init__(self, to: str, root: Path, dataset: Dataset, say: Callable[[str], None]) -> None:
        super().__init__(to, root, dataset, say)
        # Regions of a large data set would fill the memory: they wait in a file, a line for each image.
        self._waiting = root / "regions.jsonl"
        self._lines: dict[str, int] = {}
        self._labels_of: dict[str, tuple[int, ...]] = {}
        self._given_up = 0
        self._new_tags = 0

    def check(self) -> None:
        super().check()
        if any(sample.mask is not None for _, sample in self.samples()):
            _mask_tools()

    def photograph(self, split: str, sample: Sample) -> str:
        return f"images/{sample.id}{sample.image.suffix}"

    def tags(self, sample: Sample) -> tuple[int, ...]:
        return self._labels_of.get(sample.id, sample.tags)

    def mask(self, sample: Sample, mask: npt.NDArray[np.uint8]) -> None:
        shown = {int(label) for label in np.unique(mask)} - {BACKGROUND, UNLABELLED}
        self._new_tags += bool(shown - set(sample.tags))
        classes = tuple(sorted(shown | set(sample.tags)))
        # A tag that the mask does not show becomes an empty region: the tag stays, and so does the mask.
        regions = [_region(mask == label, label, crowd=False) for label in classes]
        unlabelled = mask == UNLABELLED
        if unlabelled.any():
            crowd = _region(unlabelled, UNLABELLED, crowd=True)
            regions += [{**crowd, "category_id": label} for label in classes]
            self._given_up += 0 if classes else int(unlabelled.sum())
        self._labels_of[sample.id] = classes
        with naming(self._waiting), self._waiting.open("ab") as file:
            self._lines[sample.id] = file.tell()
            file.write(json.dumps(regions).encode() + b"\n")

    def finish(self) -> None:
        if self._new_tags:
            self.say(f"{self.to}: of {self._new_tags} photographs classes in the mask that were no tags became tags")
        if self._given_up:
            self.say(f"{self.to}: {self._given_up} unlabelled pixels of photographs without classes became background")
        unknown = sum(not sample.tags and sample.mask is None for _, sample in self.samples())
        if unknown:
            self.say(f"{self.to}: {unknown} photographs without tags and masks are read as masks of background only")
        categories = [{"id": label, "name": name} for label, name in enumerate(self.dataset.classes, start=1)]
        self._waiting.touch()
        with self._waiting.open("rb") as waiting:
            for name, split in self.splits():
                images = [self._image(name, number, sample) for number, sample in enumerate(split, start=1)]
                annotations = (
                    {"image_id": image["id"], **region}
                    for image, sample in zip(images, split, strict=True)
                    for region in self._regions(sample, image, waiting)
                )
                numbered = ({"id": number, **region} for number, region in enumerate(annotations, start=1))
                content = {"images": images, "annotations": numbered, "categories": categories}
                path = self.root / "annotations" / f"instances_{name}.json"
                with atomic_path(path) as aside, aside.open("w", encoding="utf-8") as file:
                    _write_lists(file, content)
        self._waiting.unlink()

    def _image(self, split: str, number: int, sample: Sample) -> dict[str, Any]:
        height, width = image_size(sample.image)
        file_name = self.photograph(split, sample).removeprefix("images/")
        return {"id": number, "file_name": file_name, "height": height, "width": width}

    def _regions(self, sample: Sample, image: dict[str, Any], waiting: BinaryIO) -> list[dict[str, Any]]:
        if sample.id not in self._lines:
            # Tags alone: annotations that say nothing about where.
            return [_nowhere(label, image["height"], image["width"]) for label in sample.tags]
        waiting.seek(self._lines[sample.id])
        regions: list[dict[str, Any]] = json.loads(waiting.readline())
        return regions


def _write_lists(file: TextIO, content: Mapping[str, Iterable[Any]]) -> None:
    """Writes a JSON object of lists item by item, so that they need not be in memory as a whole."""
    start = "{"
    for name, items in content.items():
        file.write(f"{start}{json.dumps(name)}: [")
        comma = ""
        for item in items:
            file.write(f"{comma}{json.dumps(item, ensure_ascii=False)}")
            comma = ", "
        file.write("]")
        start = ", "
    file.write("}")


def _mask_tools() -> Any:
    try:
        from pycocotools import mask as tools
    except ImportError as error:
        raise DataError("masks in COCO's format need pycocotools: pip install 'tag2mask[coco]'") from error
    return tools


def _region(inside: npt.NDArray[np.bool_], label: int, *, crowd: bool) -> dict[str, Any]:
    tools = _mask_tools()
    code = tools.encode(np.asfortranarray(inside, dtype=np.uint8))
    return {
        "category_id": label,
        "segmentation": {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")},
        "area": int(tools.area(code)),
        "bbox": tools.toBbox(code).tolist(),
        "iscrowd": int(crowd),
    }


def _nowhere(label: int, height: int, width: int) -> dict[str, Any]:
    box = [0, 0, width, height]
    return {"category_id": label, "segmentation": [], "area": height * width, "bbox": box, "iscrowd": 0}


WRITERS: dict[str, type[Writer]] = {
    "csv": CsvWriter,
    "one-hot": OneHotWriter,
    "folders": FoldersWriter,
    "voc": VocWriter,
    "coco": CocoWriter,
    "npy": NpyWriter,
}
"""The writer of every layout, by what the user calls it."""


def new_file(path: Path) -> Path:
    """The path, with its folder made.

    Raises:
        DataError: something else of this data set is there already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise DataError(f"{path.name}: two files of the data set would both become {path}")
    return path
