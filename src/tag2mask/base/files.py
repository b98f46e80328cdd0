"""Writing so that a file is either whole or not there."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ASIDE_SUFFIX = ".part"
"""Ending of files that are being written, and of what a killed process left of them."""

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_PROBE_BYTES = 1 << 16


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    The data reaches the disk before the name does, so that a crash of the machine leaves no empty file behind either.

    Raises:
        OSError: the disk is full or cannot be written, or `path` cannot be made, with `path` as its file name, whatever
            the writer in the block made of it.
    """
    # The same name every time: what a killed process left is overwritten, not left lying.
    aside = path.with_name(path.name + ASIDE_SUFFIX)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            if error.filename != str(aside):
                raise
            # Whoever gave `path` has never heard of the file aside.
            raise OSError(error.errno, error.strerror, str(path)) from error
        except Exception:
            # torch tells of a full disk by a RuntimeError about positions; whether it was the disk shows when one more
            # block is written to the same file.
            with aside.open("ab") as file:
                file.write(bytes(_PROBE_BYTES))
                os.fsync(file.fileno())
            raise
        finally:
            # On a disk that has become read-only this fails as well, and what failed first is what counts.
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the disk in the block are raised with a file's name: a failed write does not know its file.

    Raises:
        OSError: the disk is full or cannot be written; `path` is its file name.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically."""
    with atomic_path(path) as aside:
        aside.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON atomically, keys in the order given.

    File names that are no text come back as they are: what UTF-8 cannot hold of them, lone surrogates, is written with
    a backslash as JSON has it, and so as Python's error handler writes it.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode(errors="backslashreplace"))


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed, and a file that goes away meanwhile does not count."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += (Path(parent) / name).lstat().st_size
    return size
