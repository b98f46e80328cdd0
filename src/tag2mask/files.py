"""Writing so that a file is either whole or not there."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ASIDE_SUFFIX = ".part"
"""Ending of files that are being written, and of what a killed process left of them."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    The data reaches the disk before the name does, so that a crash of the machine leaves no empty file behind either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same name every time: what a killed process left is overwritten, not left lying.
    aside = path.with_name(path.name + ASIDE_SUFFIX)
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically."""
    with atomic_path(path) as aside:
        aside.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON atomically, keys in the order given."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
