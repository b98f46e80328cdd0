"""Opening a data set, whatever its layout."""

from pathlib import Path
from typing import Literal, get_args

from tag2mask.data.class_folders import has_class_folders, read_class_folders
from tag2mask.data.coco import has_annotations, read_coco, refused_files
from tag2mask.data.csv_folder import read_csv_folder
from tag2mask.data.problems import Report, raise_problem
from tag2mask.data.records import DEFAULT_TRAIN_LIST, DEFAULT_VAL_LIST
from tag2mask.data.samples import Dataset
from tag2mask.data.voc import find_voc_roots, read_voc
from tag2mask.errors import DataError, SettingsError, unknown_choice

Layout = Literal["auto", "voc", "csv", "folders", "coco"]

_TAGS_FROM: dict[str, tuple[Layout, ...]] = {
    "labels_csv": ("voc", "csv"),
    "val_csv": ("csv",),
    "labels_npy": ("voc",),
}
"""Layouts that take their tags from files that can be named."""


def _detect(root: Path, has_table: bool, train_list: str) -> Layout:
    """Layout of a folder.

    VOC's if JPEGImages with lists beside it is there, else a folder with a table of tags, COCO's if there are
    annotation files, else class folders. A table that the user names may lie elsewhere (`has_table`).
    """
    homes = find_voc_roots(root)
    if any((home / "ImageSets").is_dir() for home in homes):
        return "voc"
    if has_table or any(root.glob("*.csv")):
        return "csv"
    if has_annotations(root, train_list):
        return "coco"
    # JPEGImages without lists is no class of that name, and another JSON file a sign of another layout.
    if not homes and not any(root.glob("*.json")) and has_class_folders(root):
        return "folders"
    contents = "it is empty" if not any(root.iterdir()) else "none of these is there"
    raise DataError(
        f"{root}: no data set; looked for JPEGImages and ImageSets (VOC's layout, in it or up to three levels below), "
        "for a CSV file with the columns image_path and label, for annotations/instances_*.json or another JSON file "
        f"of COCO's kind, and for photographs in one folder per class; {contents}{refused_files(root)}"
    )


def open_dataset(
    root: str | Path,
    *,
    layout: Layout = "auto",
    train_list: str = DEFAULT_TRAIN_LIST,
    val_list: str | None = DEFAULT_VAL_LIST,
    labels_csv: str | Path | None = None,
    val_csv: str | Path | None = None,
    labels_npy: str | Path | None = None,
    allow_pickle: bool = False,
    report: Report = raise_problem,
) -> Dataset:
    """Opens a data set of tagged images; no image and no mask is read.

    Args:
        root: folder of the data set.
        layout: ``"voc"`` (see `tag2mask.data.voc`), ``"csv"`` (see `tag2mask.data.csv_folder`), ``"coco"`` (see
            `tag2mask.data.coco`), ``"folders"`` (see `tag2mask.data.class_folders`), or ``"auto"`` to find out.
        train_list: list to train on; VOC's and COCO's layout only.
        val_list: list to measure on, None for none; VOC's and COCO's layout only.
        labels_csv: the table of tags if it is not where it usually is; VOC's layout and folders with a table.
        val_csv: table of the images to measure on; folders with a table only.
        labels_npy: file of tag vectors, instead of a table; VOC's layout only.
        allow_pickle: `labels_npy` may be read, which can run code that is in it.
        report: takes what is wrong with single images and rows (see `tag2mask.data.problems`); by default the first
            such problem is raised.

    Returns:
        the data set; its `layout` says which one was found.

    Raises:
        SettingsError: the layout is unknown, a file of tags is given that it does not have, or `labels_npy` is given
            without `allow_pickle`.
        DataError: there is no such folder, no layout fits, or the data set is unusable.
    """
    root = Path(root)
    if layout not in get_args(Layout):
        raise SettingsError(unknown_choice("layout", layout, get_args(Layout)))
    if not root.is_dir():
        raise DataError(f"{root}: {'a file, but a folder is expected' if root.exists() else 'there is no such folder'}")
    if layout == "auto":
        layout = _detect(root, labels_csv is not None or val_csv is not None, train_list)
    given = {"labels_csv": labels_csv, "val_csv": val_csv, "labels_npy": labels_npy}
    for name, value in given.items():
        if value is not None and layout not in _TAGS_FROM[name]:
            layouts = " or ".join(_TAGS_FROM[name])
            raise SettingsError(f"{name} is for the layout {layouts}, but {root} has the layout {layout}")
    if layout == "csv":
        return read_csv_folder(root, labels_csv=labels_csv, val_csv=val_csv, report=report)
    if layout == "coco":
        return read_coco(root, train_list=train_list, val_list=val_list, report=report)
    if layout == "folders":
        return read_class_folders(root, report=report)
    return read_voc(
        root,
        train_list=train_list,
        val_list=val_list,
        labels_csv=labels_csv,
        labels_npy=labels_npy,
        allow_pickle=allow_pickle,
        report=report,
    )
