"""Photographs by file and folder, without a data set around them."""

from collections.abc import Sequence
from pathlib import Path

from tag2mask.data.images import IMAGE_SUFFIXES
from tag2mask.data.records import is_photograph
from tag2mask.errors import DataError


def find_photographs(paths: Sequence[Path], *, out: Path | None = None) -> dict[str, Path]:
    """Photographs by the name of their masks: the path below the folder given, or the file's name, without suffix.

    Args:
        paths: files, and folders that are searched with their subfolders.
        out: a folder that is left out of the search: what an earlier call wrote there are no photographs.

    Raises:
        DataError: a path is missing, a folder has no photographs, or two photographs have one name.
    """
    names: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            found = sorted(
                file
                for file in path.rglob("*")
                if is_photograph(file) and not (out is not None and file.resolve().is_relative_to(out.resolve()))
            )
            if not found and out is not None and path.resolve().is_relative_to(out.resolve()):
                raise DataError(f"{path}: lies in the folder for results, {out}, where nothing counts as a photograph")
            if not found:
                raise DataError(f"{path}: no photographs in this folder ({', '.join(IMAGE_SUFFIXES)})")
            named = [(file.relative_to(path).with_suffix("").as_posix(), file) for file in found]
        elif path.is_file():
            named = [(path.stem, path)]
        else:
            raise DataError(f"{path}: there is no such file or folder")
        for name, file in named:
            if name in names:
                raise DataError(f"{file} and {names[name]} would both give {name}.png; take them apart")
            names[name] = file
    return names
