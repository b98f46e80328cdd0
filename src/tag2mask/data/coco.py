"""Reader of COCO's instance annotations: tags for training, and true masks drawn from the outlines.

    annotations/instances_train2017.json, instances_val2017.json
    train2017/000000000009.jpg          or images/train2017/..., images/..., or in the folder itself

or, as annotation tools export it,

    train/_annotations.coco.json, train/0001.jpg
    valid/_annotations.coco.json, valid/0007.jpg

or one JSON file of this kind, in the folder or its `annotations`. All categories of the file are classes, in the
order of their ids, which become 1..C without gaps. An image's tags are the categories of its annotations, crowds
included.

The true mask of an image is drawn from its annotations (see `tag2mask.data.coco_masks`).
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tag2mask.base.text import plural
from tag2mask.data.coco_masks import Annotation, pack_mask
from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.records import DEFAULT_TRAIN_LIST, DEFAULT_VAL_LIST, Record, SplitName, assemble, stays_inside
from tag2mask.data.samples import Dataset, is_background, no_class_name
from tag2mask.errors import DataError, unknown_choice

_ANNOTATIONS = "annotations"
_PREFIX = "instances_"
_EXPORT = "_annotations.coco.json"
_SUFFIX = ".json"
_KEYS = ("images", "annotations", "categories")
_NAMED = 3  # how many files an error names before it only counts


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
    """True if a folder looks like this layout: an annotation file is in it, or is what `train_list` names."""
    return train_list.endswith(_SUFFIX) or bool(_lists(root)) or bool(_other_files(root))


def refused_files(root: Path) -> str:
    """Reasons why the JSON files of a folder in which no list was found are none, to be told behind an error.

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
        """Images of the list, in its order."""
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
                    mask = pack_mask(entry, annotations[number], self.instances.path)
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

    def _annotations(self, images: Collection[int | str]) -> tuple[dict[int | str, list[Annotation]], set[int | str]]:
        """Annotations by image id, and the ids of images with others that cannot be used."""
        annotations: dict[int | str, list[Annotation]] = {number: [] for number in images}
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
                            Annotation(
                                order, self.class_ids[category], entry.get("iscrowd") == 1, entry.get("segmentation")
                            )
                        )
                case _:
                    self._bad(what, "an 'image_id' and a 'category_id' are expected")
        return annotations, doubtful

    def _photograph(self, name: str, where: str) -> tuple[str, Path] | None:
        """Id and file of an image, or None if it cannot be used."""
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

    The id of an image is its `file_name` without suffix; in exports with images beside the annotation files the list's
    folder stands in front.

    Args:
        root: the folder.
        train_list: name of a list (`train2017` for `instances_train2017.json`), or path of an annotation file; the
            default also stands for the only list whose name begins like that, or the only annotation file there is.
        val_list: the same for the images to measure on. None, or a missing file where the name is the default
            one, means that there are none.
        report: takes what is wrong with single images and annotations.

    Returns:
        the data set, its splits named like the lists; masks are `CocoMask`.

    Raises:
        DataError: a list is missing, several could be meant, a file is no annotation file, a category has the name of
            another one or of the background, or the categories of the lists differ; or, unless `report` returns, an
            entry is bad, an image is missing, or an annotation names an image or category that is not there.
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
