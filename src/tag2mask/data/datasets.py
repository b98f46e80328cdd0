"""Opening a data set, whatever its layout."""

from pathlib import Path
from typing import Literal, get_args

from tag2mask.data.csv_folder import read_csv_folder
from tag2mask.data.samples import Dataset
from tag2mask.data.voc import DEFAULT_VAL_LIST, find_voc_roots, read_voc
from tag2mask.errors import DataError, SettingsError, unknown_choice

Layout = Literal["auto", "voc", "csv", "folders", "coco"]


def _detect(root: Path, has_table: bool) -> Layout:
    """Layout of a folder: VOC's if JPEGImages with lists beside it is there, else a folder with a table of tags.

    A table that the user names may lie elsewhere (`has_table`).
    """
    if any((home / "ImageSets").is_dir() for home in find_voc_roots(root)):
        return "voc"
    if has_table or any(root.glob("*.csv")):
        return "csv"
    contents = "it is empty" if not any(root.iterdir()) else "neither is there"
    raise DataError(
        f"{root}: no data set; looked for JPEGImages and ImageSets (VOC's layout, in it or up to three levels below) "
        f"and for a CSV file with the columns image_path and label; {contents}"
    )


def open_dataset(
    root: str | Path,
    *,
    layout: Layout = "auto",
    train_list: str = "train",
    val_list: str | None = DEFAULT_VAL_LIST,
    labels_csv: str | Path | None = None,
    val_csv: str | Path | None = None,
    labels_npy: str | Path | None = None,
    allow_pickle: bool = False,
) -> Dataset:
    """Opens a data set of tagged photographs; no photograph and no mask is read.

    Args:
        root: folder of the data set.
        layout: ``"voc"`` (see `tag2mask.data.voc`), ``"csv"`` (see `tag2mask.data.csv_folder`), or ``"auto"`` to find
            out.
        train_list: list to train on; VOC's layout only.
        val_list: list to measure on, None for none; VOC's layout only.
        labels_csv: the table of tags if it is not where it usually is.
        val_csv: table of the photographs to measure on; folders with a table only.

    Returns:
        the data set.

    Raises:
        SettingsError: the layout is unknown, or `val_csv` is given for VOC's layout.
        DataError: there is no such folder, no layout fits, or the data set is unusable.
    """
    root = Path(root)
    if layout not in get_args(Layout):
        raise SettingsError(unknown_choice("layout", layout, get_args(Layout)))
    if not root.is_dir():
        raise DataError(f"{root}: {'a file, but a folder is expected' if root.exists() else 'there is no such folder'}")
    if layout == "auto":
        layout = _detect(root, has_table=labels_csv is not None or val_csv is not None)
    if layout == "csv":
        return read_csv_folder(root, labels_csv=labels_csv, val_csv=val_csv)
    if val_csv is not None:
        raise SettingsError("val_csv is for a folder with a table of tags; VOC's layout names its lists by val_list")
    return read_voc(root, train_list=train_list, val_list=val_list, labels_csv=labels_csv)
