"""Reader of COCO's instance annotations: tags for training, and true masks drawn from the outlines.

    annotations/instances_train2017.json, instances_val2017.json
    train2017/000000000009.jpg          or images/train2017/..., images/..., or in the folder itself

or, as annotation tools export it,

    train/_annotations.coco.json, train/0001.jpg
    valid/_annotations.coco.json, valid/0007.jpg

or one JSON file of this kind, in the folder or its `annotations`. All categories of the file are classes, in the
order of their ids, which become 1..C without gaps. A photograph's tags are the categories of its annotations, crowds
included.

The true mask of a photograph is drawn when it is asked for:

- The region of an object is the union of its polygons, or its run-length code. Objects are drawn from the largest to
  the smallest (pixels of the region; among equals in the order of their ids), so that a small object in front covers
  the large one behind it. Objects of one class merge.
- Crowds (`iscrowd` 1) become 255 wherever no single object is drawn: their outlines take the gaps along.
- Everything else is background. A photograph without annotations is background only.
- Where an annotation has no outline (a box alone) or one that cannot be used, the photograph has no true mask, and none
  either where the file does not give its height and width.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tag2mask.base.text import plural
from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.records import DEFAULT_TRAIN_LIST, DEFAULT_VAL_LIST, Record, SplitName, assemble, stays_inside
from tag2mask.data.samples import Dataset, is_background, no_class_name
from tag2mask.errors import DataError, unknown_choice

_RULE = 1  # to be raised with every change of how masks are drawn: digests, and with them results, depend on it
_ANNOTATIONS = "annotations"
_PREFIX = "instances_"
_EXPORT = "_annotations.coco.json"
_SUFFIX = ".json"
_KEYS = ("images", "annotations", "categories")
_COMPRESSION = 1  # all outlines of a large data set are packed at every start
_CORNERS = 3  # a polygon with fewer encloses nothing
_DIGEST_BYTES = 16
_NAMED = 3  # how many files an error names before it only counts

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
    """A true mask that is drawn from a photograph's annotations (see the module's description).

    Attributes:
        source: the annotation file, for messages.
        name: the photograph's name in it, for messages.
        height: of the photograph, in pixels.
        width: of the photograph, in pixels.
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
            # A bit per pixel: large photographs have dozens of objects.
            regions.append((not crowd, -np.count_nonzero(region), class_id, np.packbits(region)))
        # Crowds first, then objects by size; sorting is stable, so among equals the order of the ids stays.
        for single, _, class_id, bits in sorted(regions, key=lambda region: region[:2]):
            region = np.unpackbits(bits, count=mask.size).reshape(mask.shape)
            mask[region.astype(bool)] = class_id if single else UNLABELLED
        return mask

    def size(self) -> tuple[int, int]:
        """Height and width that the annotation file gives the photograph."""
        return self.height, self.width

    def digest(self, of_file: Callable[[Path], str]) -> str:
        """Digest of the annotations, the ids of their classes, the size and the rule; no file enters."""
        digest = hashlib.blake2b(f"{_RULE} {self.height} {self.width} ".encode(), digest_size=_DIGEST_BYTES)
        # Of the text and not of the packed bytes, which differ between versions of zlib.
        digest.update(zlib.decompress(self.packed))
        return digest.hexdigest()

    def __str__(self) -> str:
        return f"{self.source}: image {self.name}"


class _Annotation(NamedTuple):
    """One annotation of an image: its place in the order of drawing, and what it says."""

    order: int
    class_id: int
    crowd: bool
    segmentation: Any


@dataclass(frozen=True)
class _Instances:
    """An annotation file that was read, its images and annotations not yet looked at.

    Attributes:
        path: the file.
        categories: names by category id, in ascending order of the ids.
        images: entries of the images.
        annotations: entries of the annotations.
    """

    path: Path
    categories: dict[int, str]
    images: list[Any]
    annotations: list[Any]


def _list_name(path: Path) -> str:
    """Name of the list that an annotation file is: `train2017` of `instances_train2017.json`."""
    return path.parent.name if path.name == _EXPORT else path.stem.removeprefix(_PREFIX)


def _lists(root: Path) -> dict[str, Path]:
    """Annotation files that are recognised by their names, by the names of their lists."""
    paths = [path for folder in (root / _ANNOTATIONS, root) for path in sorted(folder.glob(f"{_PREFIX}*.json"))]
    paths += sorted(root.glob(f"*/{_EXPORT}"))
    lists: dict[str, Path] = {}
    for path in paths:
        if path.is_file():
            lists.setdefault(_list_name(path), path)
    return dict(sorted(lists.items()))


def _other_files(root: Path) -> list[Path]:
    """JSON files that hold instance annotations by their keys, except those of lists to measure on."""
    return [path for path in _json_files(root) if not _list_name(path).startswith(DEFAULT_VAL_LIST) and _has_keys(path)]


def _json_files(root: Path) -> list[Path]:
    paths = [path for folder in (root, root / _ANNOTATIONS) for path in sorted(folder.glob(f"*{_SUFFIX}"))]
    return [path for path in paths if path.is_file()]


def _has_keys(path: Path) -> bool:
    # Parsing takes many times longer, and such files are large.
    content = path.read_bytes()
    return all(f'"{key}"'.encode() in content for key in _KEYS)


def has_annotations(root: Path, train_list: str = DEFAULT_TRAIN_LIST) -> bool:
    """Whether a folder looks like this layout: an annotation file is in it, or is what `train_list` names."""
    return train_list.endswith(_SUFFIX) or bool(_lists(root)) or bool(_other_files(root))


def refused_files(root: Path) -> str:
    """Why the JSON files of a folder in which no list was found are none, to be told behind an error.

    Returns:
        what is wrong with the first few, with a semicolon in front of each; empty where there is no such file.
    """
    paths = _json_files(root)
    text = ""
    for path in paths[:_NAMED]:
        try:
            _read_instances(path)
        except DataError as error:
            text += f"; {error}"
        else:
            text += f"; {path}: by its name a list to measure on, not one to train on"
    others = len(paths) - _NAMED
    return f"{text}; {others} other JSON {plural(others, 'file')}" if others > 0 else text


def _find_list(root: Path, name: str) -> Path | None:
    """Annotation file of a list given by name or by path, or None.

    Raises:
        DataError: several could be meant.
    """
    for path in (root / name, Path(name)):
        if name.endswith(_SUFFIX) and path.is_file():
            return path
    lists = _lists(root)
    if name in lists or name not in (DEFAULT_TRAIN_LIST, DEFAULT_VAL_LIST):
        return lists.get(name)
    # The usual name stands for whatever there is of its kind: train for train2017, val for valid.
    found = [path for other, path in lists.items() if other.startswith(name)]
    if not found and name == DEFAULT_TRAIN_LIST:
        found = _other_files(root)
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise DataError(f"{root}: several files could be the list '{name}', give one as --{name}_list: {names}")
    return found[0] if found else None


def _read_instances(path: Path) -> _Instances:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not proper JSON ({error})") from error
    missing = [key for key in _KEYS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DataError(
            f"{path}: no instance annotations; the lists {', '.join(_KEYS)} are expected; missing: {', '.join(missing)}"
        )
    categories: dict[int, str] = {}
    for entry in content["categories"]:
        match entry:
            case {"id": int() as number, "name": str() as name} if number not in categories:
                categories[number] = name.strip()
            case _:
                raise DataError(f"{path}: a category needs an 'id' of its own, a number, and a 'name'; found {entry}")
    numbers: dict[str, int] = {}
    for number, name in categories.items():
        if is_background(name):
            raise DataError(f"{path}: category {number}: {no_class_name(name)}; take it and its annotations out")
        if not name:
            raise DataError(f"{path}: category {number}: its name is empty")
        other = numbers.setdefault(name, number)
        if other != number:
            raise DataError(f"{path}: the categories {other} and {number} are both called '{name}'")
    return _Instances(path, dict(sorted(categories.items())), content["images"], content["annotations"])


def _outline(segmentation: Any, height: int, width: int) -> list[list[float]] | dict[str, Any] | None:
    """What is kept of a segmentation: polygons that enclose something or a run-length code; None if there is none.

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


def _mask(entry: Any, annotations: list[_Annotation], path: Path) -> CocoMask | None:
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


class _Reader:
    """Reads the images of one list.

    Args:
        root: folder of the data set.
        instances: its annotation file.
        split: what the list is for.
        report: takes what is wrong with single images and annotations.
    """

    def __init__(self, root: Path, instances: _Instances, split: SplitName, report: Report) -> None:
        path, name = instances.path, _list_name(instances.path)
        self.instances, self.split, self.report = instances, split, report
        self.class_ids = {number: index + 1 for index, number in enumerate(instances.categories)}
        self.names = tuple(instances.categories.values())
        # Exports keep train and valid apart as folders only; file names may be the same in both.
        self.prefix = f"{path.parent.name}/" if path.name == _EXPORT and path.parent != root else ""
        images = root / "images"
        self.folders = list(dict.fromkeys((images / name, root / name, path.parent, images, root)))

    def records(self) -> Iterator[Record]:
        """Photographs of the list, in its order."""
        images = self._images()
        annotations, doubtful = self._annotations(images)
        for number, entry in images.items():
            where = f"{self.instances.path}: image {number}"
            file = self._photograph(entry["file_name"], where)
            if file is None:
                continue
            sample_id, image = file
            labels = dict.fromkeys(self.names[annotation.class_id - 1] for annotation in annotations[number])
            mask = None
            try:
                if number not in doubtful:
                    mask = _mask(entry, annotations[number], self.instances.path)
            except ValueError as error:
                self._bad(f"image {number}", str(error))
            yield Record(where, sample_id, image, tuple(labels), mask, self.split)

    def _bad(self, what: str, message: str) -> None:
        self.report(Problem("bad-row", f"{self.instances.path}: {what}: {message}"))

    def _images(self) -> dict[int | str, Any]:
        """Entries by image id."""
        images: dict[int | str, Any] = {}
        for position, entry in enumerate(self.instances.images):
            match entry:
                case {"id": int() | str() as number, "file_name": str() as name}:
                    other = images.setdefault(number, entry)
                    if other is not entry:
                        both = f"two images have the id {number}: {other['file_name']} and {name}"
                        self.report(Problem("duplicate-id", f"{self.instances.path}: {both}"))
                case _:
                    self._bad(f"images[{position}]", "an 'id' and a 'file_name' are expected")
        return images

    def _annotations(self, images: Collection[int | str]) -> tuple[dict[int | str, list[_Annotation]], set[int | str]]:
        """Annotations by image id, and the ids of images with others that cannot be used."""
        annotations: dict[int | str, list[_Annotation]] = {number: [] for number in images}
        doubtful = set()
        for position, entry in enumerate(self.instances.annotations):
            what = f"annotations[{position}]"
            match entry:
                case {"image_id": int() | str() as number, "category_id": int() as category}:
                    if number not in annotations:
                        self._bad(what, f"there is no image {number}")
                    elif category not in self.class_ids:
                        doubtful.add(number)
                        choices = unknown_choice("category", category, map(str, self.class_ids))
                        self.report(Problem("unknown-class", f"{self.instances.path}: {what}: {choices}"))
                    else:
                        own = entry.get("id", position)
                        order = own if isinstance(own, int) else position
                        annotations[number].append(
                            _Annotation(
                                order, self.class_ids[category], entry.get("iscrowd") == 1, entry.get("segmentation")
                            )
                        )
                case _:
                    self._bad(what, "an 'image_id' and a 'category_id' are expected")
        return annotations, doubtful

    def _photograph(self, name: str, where: str) -> tuple[str, Path] | None:
        """Id and file of a photograph, or None if it cannot be used."""
        relative = PurePosixPath(name.replace("\\", "/"))
        if not stays_inside(str(relative)) or not relative.name:
            self.report(Problem("unsafe-id", f"{where}: '{name}' must be a path inside the folder of the photographs"))
            return None
        for folder in self.folders:
            if (folder / relative).is_file():
                return f"{self.prefix}{relative.with_suffix('')}", folder / relative
        places = ", ".join(map(str, self.folders))
        self.report(Problem("missing-photograph", f"{where}: there is no photograph '{name}'; looked in {places}"))
        return None


def read_coco(
    root: str | Path,
    *,
    train_list: str = DEFAULT_TRAIN_LIST,
    val_list: str | None = DEFAULT_VAL_LIST,
    report: Report = raise_problem,
) -> Dataset:
    """Reads a data set with COCO's instance annotations (see the module's description).

    The id of a photograph is its `file_name` without suffix; in exports with photographs beside the annotation files
    the list's folder stands in front.

    Args:
        root: the folder.
        train_list: name of a list (`train2017` for `instances_train2017.json`), or path of an annotation file; the
            default also stands for the only list whose name begins like that, or the only annotation file there is.
        val_list: the same for the photographs to measure on. None, or a missing file where the name is the default
            one, means that there are none.
        report: takes what is wrong with single images and annotations.

    Returns:
        the data set, its splits named like the lists; masks are `CocoMask`.

    Raises:
        DataError: a list is missing, several could be meant, a file is no annotation file, a category has the name of
            another one or of the background, or the categories of the lists differ; or, unless `report` returns, an
            entry is bad, a photograph is missing, or an annotation names an image or category that is not there.
    """
    root = Path(root)
    lists: dict[SplitName, _Instances] = {}
    splits: tuple[tuple[SplitName, str | None], ...] = (("train", train_list), ("val", val_list))
    for split, name in splits:
        path = None if name is None else _find_list(root, name)
        if path is not None:
            lists[split] = _read_instances(path)
        elif split == "train" or name not in (None, DEFAULT_VAL_LIST):
            there = ", ".join(_lists(root)) or f"no annotation file is there{refused_files(root)}"
            raise DataError(f"{root}: {unknown_choice('list', name, [there])}")
    train, val = lists["train"], lists.get("val", lists["train"])
    for number in {**train.categories, **val.categories}:
        names = [instances.categories.get(number) for instances in (train, val)]
        if names[0] != names[1]:
            raise DataError(
                f"{val.path}: category {number} is '{names[1]}', but '{names[0]}' in {train.path}; both need the same"
            )
    records = [
        record for split, instances in lists.items() for record in _Reader(root, instances, split, report).records()
    ]
    return assemble(
        root,
        "coco",
        tuple(train.categories.values()),
        records,
        report,
        train=_list_name(train.path),
        val=_list_name(val.path),
    )
