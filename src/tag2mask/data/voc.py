"""Reader of PASCAL VOC's folder layout.

    JPEGImages/<id>.jpg                         the images
    ImageSets/Segmentation/<list>.txt           which of them belong to a list
    tags.csv  or  Annotations/<id>.xml          what is in them; or a cls_labels.npy that is named
    SegmentationClassAug/, SegmentationClass/   <id>.png, masks, where there are any
    classes.txt                                 names of the foreground classes, optional

A line of a list is a bare id, spaces in it or not, or the path of an image and, optionally, of its mask
(`/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png`, as the lists of the augmented training set have
it).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from tag2mask.data.cls_labels import USUAL_VECTORS, cls_labels
from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.masks import MaskFile
from tag2mask.data.problems import Problem, Report, raise_problem
from tag2mask.data.records import (
    DEFAULT_TRAIN_LIST,
    DEFAULT_VAL_LIST,
    Record,
    SplitName,
    assemble,
    found_class_names,
    is_photograph,
    named_classes,
    read_text,
    stays_inside,
    without_image_suffix,
)
from tag2mask.data.samples import Dataset, check_id
from tag2mask.data.tag_table import LabelRow, LabelTable, class_names, read_label_table, table_file
from tag2mask.errors import DataError, SettingsError, unknown_choice

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

_IMAGES = "JPEGImages"
_LISTS = "ImageSets/Segmentation"
_TAGS = "tags.csv"
_ANNOTATIONS = "Annotations"
_MASKS = ("SegmentationClassAug", "SegmentationClass")
_LEVELS = 3  # how far below the given folder JPEGImages is searched: <root>/VOCdevkit/VOC2012/JPEGImages, and one more


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
    """Id of an image from its path in a list or tag table: relative to JPEGImages, without suffix."""
    relative = PurePosixPath(path.lstrip("/"))
    if relative.parts[:1] == (_IMAGES,):
        relative = relative.relative_to(_IMAGES)
    return without_image_suffix(str(relative))


class _Photographs:
    """Finds images by the words of a list.

    Args:
        root: the folder that holds JPEGImages.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / _IMAGES
        self._by_id: dict[Path, dict[str, list[Path]]] = {}

    def find(self, token: str) -> list[Path]:
        """The file of a path, or all files of an id; none where there is no such image."""
        named = self.folder / PurePosixPath(token.lstrip("/").removeprefix(f"{_IMAGES}/"))
        if named.suffix.lower() in IMAGE_SUFFIXES:
            return [named] if named.is_file() else []
        # Suffixes come in either case; on a large list trying them all takes longer than to list their folder once.
        if named.parent not in self._by_id:
            by_id = self._by_id[named.parent] = {}
            for path in sorted(named.parent.iterdir()) if named.parent.is_dir() else ():
                if is_photograph(path) and path.is_file():
                    by_id.setdefault(path.stem, []).append(path)
        return self._by_id[named.parent].get(named.name, [])


def _tokens(photographs: _Photographs, line: str) -> list[str]:
    """Words of a line of a list; a line that names an image as a whole is one, spaces or not."""
    words = line.split()
    return [line.strip()] if len(words) > 1 and photographs.find(line.strip()) else words


def _read_list(root: Path, path: Path, split: SplitName, photographs: _Photographs, report: Report) -> list[Record]:
    """Images of a list, without labels as yet."""
    records: list[Record] = []
    empty = True
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        tokens = _tokens(photographs, line)
        where = f"{path} line {number}"
        if not tokens:
            continue
        empty = False
        if len(tokens) > 2:
            expected = f"an id, or the paths of a photograph and its mask, are expected, not '{line}'"
            report(Problem("bad-row", f"{where}: {expected}"))
            continue
        sample_id = _image_id(tokens[0])
        try:
            check_id(sample_id)
        except DataError as error:
            report(Problem("unsafe-id", f"{where}: {error}"))
            continue
        images = photographs.find(tokens[0])
        if not images:
            message = f"{where}: there is no photograph '{sample_id}' in {photographs.folder}"
            report(Problem("missing-photograph", message))
            continue
        if len(images) > 1:
            both = " and ".join(map(str, images))
            report(Problem("duplicate-id", f"{where}: several photographs share the id '{sample_id}': {both}"))
            continue
        # A slash in front stands for the folder.
        named = [token.lstrip("/") for token in tokens[1:]]
        for path_of_mask in named:
            if not stays_inside(path_of_mask):
                report(Problem("unsafe-id", f"{where}: the mask '{path_of_mask}' must be a path inside {root}"))
        # A mask that a list names need not be there: such lists are handed around without the masks.
        masks = [root / path_of_mask for path_of_mask in named if stays_inside(path_of_mask)]
        masks += [root / folder / f"{sample_id}.png" for folder in _MASKS]
        mask = next((MaskFile(mask) for mask in masks if mask.is_file()), None)
        records.append(Record(where, sample_id, images[0], (), mask, split))
    if empty:
        raise DataError(f"{path}: the list is empty")
    return records


_LabelsOf = Callable[[Record], tuple[str, ...] | None]
"""Labels of an image; None when there are none and that has been reported."""


def _rows_by_id(table: LabelTable, report: Report) -> dict[str, LabelRow]:
    """Rows of a tag table, checked to be one per image."""
    rows: dict[str, LabelRow] = {}
    for row in table:
        other = rows.setdefault(_image_id(row.image_path), row)
        if other is not row:
            report(Problem("duplicate-row", f"{row.where}: '{row.image_path}' has a row already ({other.where})"))
    return rows


def _table_labels(table: LabelTable, rows: Mapping[str, LabelRow], report: Report) -> _LabelsOf:
    """Labels by id from the rows of a tag table."""
    left_out = {_image_id(path) for path in table.left_out}

    def labels(record: Record) -> tuple[str, ...] | None:
        if record.id in rows:
            return rows[record.id].labels
        if record.id not in left_out:
            report(Problem("missing-tags", f"{record.where}: no row for '{record.id}' in {table.path}"))
        return None

    return labels


def _annotation_labels(folder: Path, report: Report) -> _LabelsOf:
    """Labels by id from the box annotations: every object counts, those marked difficult too."""

    def labels(record: Record) -> tuple[str, ...] | None:
        path = folder / f"{record.id}.xml"
        if not path.is_file():
            report(Problem("missing-tags", f"{record.where}: no tags for '{record.id}', there is no {path}"))
            return None
        try:
            names = [(element.text or "").strip() for element in ElementTree.parse(path).iterfind("object/name")]
        except ElementTree.ParseError as error:
            report(Problem("missing-tags", f"{path}: not proper XML ({error})"))
            return None
        return tuple(dict.fromkeys(names))

    return labels


def read_voc(
    root: str | Path,
    *,
    train_list: str = DEFAULT_TRAIN_LIST,
    val_list: str | None = DEFAULT_VAL_LIST,
    labels_csv: str | Path | None = None,
    labels_npy: str | Path | None = None,
    allow_pickle: bool = False,
    report: Report = raise_problem,
) -> Dataset:
    """Reads a data set in PASCAL VOC's layout (see the module's description).

    Tags come from `tags.csv`, or else from the box annotations, where objects marked difficult count like all others
    (as in the image tags this field trains on); or from a `cls_labels.npy`, if one is named. Masks are looked for,
    never opened: the file a list names, else `SegmentationClassAug/<id>.png`, else `SegmentationClass/<id>.png`, else
    none. Classes come from `classes.txt`, or from the columns of a table that has one per class, or else are the names
    found in the tags of the lists read, in alphabetical order, or VOC's 20 in VOC's order if all names are VOC's.

    Args:
        root: the folder that holds JPEGImages, or one up to three levels above it.
        train_list: name of a list in ImageSets/Segmentation, or path of a list file.
        val_list: the same for the images to measure on. None, or a missing file where the name is the default
            one, means that there are none.
        labels_csv: a tag table other than `tags.csv`, relative to the folder or the working directory.
        labels_npy: a file of tag vectors (see `tag2mask.data.cls_labels`), relative to the folder or the working
            directory; its classes are those of `classes.txt`, or else VOC's 20.
        allow_pickle: `labels_npy` may be read, which can run code that is in it.
        report: takes what is wrong with single images, rows and lines.

    Returns:
        the data set, its splits named like the lists.

    Raises:
        SettingsError: `labels_npy` is given without `allow_pickle`, or beside `labels_csv`.
        DataError: no folder or several hold JPEGImages, a list is missing or empty, or there are no tags; or, unless
            `report` returns, a line is bad, a listed image or its tags are missing, several images have its id, or a
            tag is no class.
    """
    if labels_csv is not None and labels_npy is not None:
        raise SettingsError("labels_csv and labels_npy both hold the tags; give one of them")
    given = Path(root)
    roots = find_voc_roots(given)
    if len(roots) != 1:
        found = f"several, name one: {', '.join(map(str, roots))}" if roots else "none"
        raise DataError(
            f"{given}: one folder {_IMAGES} is expected in it or up to {_LEVELS} levels below; found {found}"
        )
    (home,) = roots

    photographs = _Photographs(home)
    listed: list[Record] = []
    lists: tuple[tuple[SplitName, str | None], ...] = (("train", train_list), ("val", val_list))
    for split, name in lists:
        if name is None:
            continue
        path = _list_file(home, name)
        if path is not None:
            listed += _read_list(home, path, split, photographs, report)
        elif split == "train" or name != DEFAULT_VAL_LIST:
            there = [path.stem for path in sorted((home / _LISTS).glob("*.txt"))]
            raise DataError(f"{home / _LISTS}: {unknown_choice('list', name, there or ['none is there'])}")

    tables: list[LabelTable] = []
    rows: dict[str, LabelRow] = {}
    table = home / _TAGS if labels_csv is None else table_file(home, labels_csv)
    annotations = home / _ANNOTATIONS
    classes: tuple[str, ...] | None = None
    if labels_npy is not None:
        classes = named_classes(home) or VOC_CLASSES
        labels_of = cls_labels(table_file(home, labels_npy), listed, classes, allow_pickle, report)
    elif table.is_file():
        tables.append(read_label_table(table, report))
        rows = _rows_by_id(tables[0], report)
        labels_of = _table_labels(tables[0], rows, report)
    elif annotations.is_dir():
        labels_of = _annotation_labels(annotations, report)
    else:
        hint = ""
        if (home / USUAL_VECTORS).is_file():
            hint = f"; {USUAL_VECTORS} is there: --labels_npy {USUAL_VECTORS} --allow_pickle true reads it"
        expected = f"{_TAGS} (columns image_path, label) or {_ANNOTATIONS}/<id>.xml is expected"
        raise DataError(f"{home}: no tags; {expected}{hint}")

    records = [
        replace(record, labels=labels, tagged=rows[record.id].where if record.id in rows else None)
        for record in listed
        if (labels := labels_of(record)) is not None
    ]
    classes = classes or class_names(home, tables)
    if classes is None:
        classes = found_class_names(label for record in records for label in record.labels)
        # Masks of VOC have VOC's ids, even if some classes are in none of the listed images.
        if set(classes) <= set(VOC_CLASSES):
            classes = VOC_CLASSES
    return assemble(
        home,
        "voc",
        classes,
        records,
        report,
        train=Path(train_list).stem,
        val=Path(val_list or DEFAULT_VAL_LIST).stem,
    )
