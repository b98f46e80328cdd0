"""Reader of PASCAL VOC's folder layout.

    JPEGImages/<id>.jpg                         the photographs
    ImageSets/Segmentation/<list>.txt           which of them belong to a list
    tags.csv  or  Annotations/<id>.xml          what is in them
    SegmentationClassAug/, SegmentationClass/   <id>.png, masks, where there are any
    classes.txt                                 names of the foreground classes, optional

A line of a list is a bare id, or the path of a photograph and, optionally, of its mask (`/JPEGImages/2007_000032.jpg
/SegmentationClassAug/2007_000032.png`, as the lists of the augmented training set have it).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from tag2mask.data.csv_folder import (
    CLASSES_FILE,
    LabelRow,
    found_class_names,
    read_class_names,
    read_label_table,
    read_text,
    table_file,
    tag_ids,
)
from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.masks import MaskFile
from tag2mask.data.samples import Dataset, Sample, Split, check_id
from tag2mask.errors import DataError, unknown_choice

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""PASCAL VOC's foreground classes in the order of its mask ids."""

DEFAULT_VAL_LIST = "val"

_IMAGES = "JPEGImages"
_LISTS = "ImageSets/Segmentation"
_TAGS = "tags.csv"
_ANNOTATIONS = "Annotations"
_MASKS = ("SegmentationClassAug", "SegmentationClass")
_LEVELS = 3  # how far below the given folder JPEGImages is searched: <root>/VOCdevkit/VOC2012/JPEGImages, and one more


@dataclass(frozen=True)
class _Entry:
    """One line of a list: where it stands, the photograph's id and file, and its mask's file if there is one."""

    where: str
    id: str
    image: Path
    mask: MaskFile | None


def find_voc_roots(root: Path) -> list[Path]:
    """Folders that hold JPEGImages: the given one if it does, else those up to a few levels below it."""
    for level in range(_LEVELS + 1):
        found = sorted(path.parent for path in root.glob("*/" * level + _IMAGES) if path.is_dir())
        if found:
            return found
    return []


def _list_file(root: Path, name: str) -> Path | None:
    """File of a list given by name, or by path."""
    candidates = (root / _LISTS / f"{name}.txt", root / _LISTS / name, root / name, Path(name))
    return next((path for path in candidates if path.is_file()), None)


def _image_id(path: str) -> str:
    """Id of a photograph from its path in a list or tag table: relative to JPEGImages, without suffix."""
    relative = PurePosixPath(path.lstrip("/"))
    if relative.parts[:1] == (_IMAGES,):
        relative = relative.relative_to(_IMAGES)
    return str(relative.with_suffix("") if relative.suffix.lower() in IMAGE_SUFFIXES else relative)


def _image_file(root: Path, token: str) -> Path | None:
    named = root / _IMAGES / PurePosixPath(token.lstrip("/").removeprefix(f"{_IMAGES}/"))
    if named.suffix.lower() in IMAGE_SUFFIXES:
        return named if named.is_file() else None
    candidates = (named.with_name(named.name + suffix) for suffix in IMAGE_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _checked_id(sample_id: str, where: str) -> str:
    try:
        return check_id(sample_id)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _read_list(root: Path, path: Path) -> list[_Entry]:
    entries: list[_Entry] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        tokens = line.split()
        where = f"{path} line {number}"
        if not tokens:
            continue
        if len(tokens) > 2:
            raise DataError(f"{where}: an id, or the paths of a photograph and its mask, are expected, not '{line}'")
        sample_id = _checked_id(_image_id(tokens[0]), where)
        image = _image_file(root, tokens[0])
        if image is None:
            raise DataError(f"{where}: there is no photograph '{sample_id}' in {root / _IMAGES}")
        if sample_id in lines:
            raise DataError(f"{where}: '{sample_id}' is on line {lines[sample_id]} already")
        lines[sample_id] = number
        # A mask that a list names need not be there: such lists are handed around without the masks.
        masks = [root / token.lstrip("/") for token in tokens[1:]]
        masks += [root / folder / f"{sample_id}.png" for folder in _MASKS]
        entries.append(
            _Entry(where, sample_id, image, next((MaskFile(mask) for mask in masks if mask.is_file()), None))
        )
    if not entries:
        raise DataError(f"{path}: the list is empty")
    return entries


def _table_labels(path: Path) -> Callable[[_Entry], tuple[str, ...]]:
    """Labels by id from a tag table, checked to have one row per photograph."""
    rows: dict[str, LabelRow] = {}
    for row in read_label_table(path):
        other = rows.setdefault(_image_id(row.image_path), row)
        if other is not row:
            raise DataError(f"{row.where}: '{row.image_path}' has a row already ({other.where})")

    def labels(entry: _Entry) -> tuple[str, ...]:
        if entry.id not in rows:
            raise DataError(f"{entry.where}: no row for '{entry.id}' in {path}")
        return rows[entry.id].labels

    return labels


def _annotation_labels(folder: Path) -> Callable[[_Entry], tuple[str, ...]]:
    """Labels by id from the box annotations: every object counts, those marked difficult too."""

    def labels(entry: _Entry) -> tuple[str, ...]:
        path = folder / f"{entry.id}.xml"
        if not path.is_file():
            raise DataError(f"{entry.where}: no tags for '{entry.id}', there is no {path}")
        try:
            names = [name.strip() for name in (e.text or "" for e in ElementTree.parse(path).iterfind("object/name"))]
        except ElementTree.ParseError as error:
            raise DataError(f"{path}: not proper XML ({error})") from error
        return tuple(dict.fromkeys(names))

    return labels


def _class_names(root: Path, labels: Sequence[Sequence[str]]) -> tuple[str, ...]:
    named = root / CLASSES_FILE
    if named.is_file():
        return read_class_names(named)
    found = found_class_names(label for some in labels for label in some)
    # Masks of VOC have VOC's ids, even if some classes are in none of the listed photographs.
    return VOC_CLASSES if set(found) <= set(VOC_CLASSES) else found


def read_voc(
    root: str | Path,
    *,
    train_list: str = "train",
    val_list: str | None = DEFAULT_VAL_LIST,
    labels_csv: str | Path | None = None,
) -> Dataset:
    """Reads a data set in PASCAL VOC's layout (see the module's description).

    Tags come from `tags.csv`, or else from the box annotations, where objects marked difficult count like all others
    (as in the image tags this field trains on). Masks are looked for, never opened: the file a list names, else
    `SegmentationClassAug/<id>.png`, else `SegmentationClass/<id>.png`, else none. Classes come from `classes.txt`, or
    else are the names found in the tags of the lists read, in alphabetical order, or VOC's 20 in VOC's order if all
    names are VOC's.

    Args:
        root: the folder that holds JPEGImages, or one up to three levels above it.
        train_list: name of a list in ImageSets/Segmentation, or path of a list file.
        val_list: the same for the photographs to measure on. None, or a missing file where the name is the default
            one, means that there are none.
        labels_csv: a tag table other than `tags.csv`, relative to the folder or the working directory.

    Returns:
        the data set, its splits named like the lists.

    Raises:
        DataError: no folder or several hold JPEGImages, a list is missing, empty or malformed, a listed photograph or
            its tags are missing, or a tag is no class.
    """
    given = Path(root)
    roots = find_voc_roots(given)
    if len(roots) != 1:
        found = f"several, name one: {', '.join(map(str, roots))}" if roots else "none"
        raise DataError(
            f"{given}: one folder {_IMAGES} is expected in it or up to {_LEVELS} levels below; found {found}"
        )
    (home,) = roots

    lists: dict[str, list[_Entry]] = {}
    for key, name in (("train", train_list), ("val", val_list)):
        if name is None:
            continue
        path = _list_file(home, name)
        if path is not None:
            lists[key] = _read_list(home, path)
        elif key == "train" or name != DEFAULT_VAL_LIST:
            there = [path.stem for path in sorted((home / _LISTS).glob("*.txt"))]
            raise DataError(f"{home / _LISTS}: {unknown_choice('list', name, there or ['none is there'])}")

    table = home / _TAGS if labels_csv is None else table_file(home, labels_csv)
    annotations = home / _ANNOTATIONS
    if table.is_file():
        labels_of = _table_labels(table)
    elif annotations.is_dir():
        labels_of = _annotation_labels(annotations)
    else:
        raise DataError(f"{home}: no tags; {_TAGS} (columns image_path, label) or {_ANNOTATIONS}/<id>.xml is expected")

    labels = {key: [labels_of(entry) for entry in entries] for key, entries in lists.items()}
    classes = _class_names(home, [some for group in labels.values() for some in group])

    def split(key: str, name: str) -> Split:
        return Split(
            name,
            tuple(
                Sample(entry.id, entry.image, tag_ids(some, classes, entry.where), entry.mask)
                for entry, some in zip(lists[key], labels[key], strict=True)
            ),
        )

    val = split("val", Path(val_list).stem) if val_list is not None and "val" in lists else None
    return Dataset(home, classes, split("train", Path(train_list).stem), val)
