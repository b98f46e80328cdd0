"""The folder that keeps what runs make: stages by fingerprint, runs by method."""

import contextlib
import errno
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from tag2mask.base.files import write_json
from tag2mask.data.images import content_digest
from tag2mask.errors import Tag2MaskError, WorkspaceError, full_memory

if sys.platform != "win32":
    import fcntl

_DIGESTS = "digests.json"
_LOCK = ".lock"

_PATIENCE = 1.0
"""Seconds to wait for the lock: another process that only starts holds it for a moment."""

_PARSING = threading.Lock()
"""Held while numpy reads a file: it parses headers with `ast`, and Python 3.11 counts the depth of that for all threads
together, so that now and then one of several at work fails with a SystemError though its file is sound."""


class Workspace:
    """A folder of artifacts.

    Layout: ``stages/<name>-<fingerprint>/`` one folder per stage, shared between runs; ``runs/<method>-<fingerprint>/``
    what a run tells about itself.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._lock = FileLock(self.root / _LOCK)
        self._remembered: _Remembered | None = None

    @property
    def stages(self) -> Path:
        """Folder of all stages."""
        return self.root / "stages"

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return self.root / "runs"

    @property
    def is_used(self) -> bool:
        """True if the folder is a workspace that a run was started in, and no folder of something else."""
        # Others have folders of these names too, and a lock file alone was once left in any folder that was given.
        return any((self.root / name).is_file() for name in (_LOCK, _DIGESTS)) and (
            self.stages.is_dir() or self.runs.is_dir()
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second writer out while the block runs. A killed process leaves no lock behind.

        The same workspace object may lock again inside the block.

        Raises:
            WorkspaceError: another process holds the lock, or the folder cannot be written.
        """
        with self._writing():
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=_PATIENCE)
            except Timeout:
                raise WorkspaceError(
                    f"{self.root}: another tag2mask is writing to this workspace; wait for it or give another "
                    "--workspace"
                ) from None
        try:
            yield
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Context that turns failures to write the folder into errors that name it.

        Raises:
            WorkspaceError: the folder is a file, or it cannot be written.
        """
        if self.root.exists() and not self.root.is_dir():
            raise WorkspaceError(f"{self.root}: a file, but the folder of a workspace is expected")
        try:
            yield
        except OSError as error:
            raise WorkspaceError(f"{self.root}: cannot write to this workspace ({error.strerror})") from error

    def check_free(self) -> None:
        """Makes sure that the workspace can be written, where there is one; nothing is left in the folder.

        Raises:
            WorkspaceError: another process is writing, or the folder cannot be written.
        """
        if (self.root / _LOCK).exists():
            with self.lock():
                pass
        elif self.root.exists():
            # No lock was ever taken here. Taking one would leave its file in a folder that no run may start in.
            with self._writing(), tempfile.TemporaryFile(dir=self.root):
                pass

    def is_locked(self) -> bool:
        """True if another process is writing; nothing is created to find out, and no writer is kept from starting."""
        path = self.root / _LOCK
        return path.is_file() and not self._lock.is_locked and _is_held(path)

    def digest(self, path: Path) -> str:
        """Digest of a file's content, remembered for as long as its size and time stay the same."""
        files = self._memory().files
        key, status = str(path.resolve()), path.stat()
        known = files.get(key)
        if known is None or known[:2] != [status.st_size, status.st_mtime_ns]:
            known = [status.st_size, status.st_mtime_ns, content_digest(path)]
            files[key] = known
        return str(known[2])

    def is_sound(self, fingerprint: str) -> bool:
        """True if something was found sound before: an image that could be decoded, by what it depends on."""
        return fingerprint in self._memory().sound

    def remember_sound(self, fingerprint: str) -> None:
        """Remembers something as sound; may be called from several threads."""
        self._memory().sound.add(fingerprint)

    def save_digests(self) -> None:
        """Writes what is remembered; without it a large data set would be read again at every start."""
        if self._remembered is not None and self._remembered != self._read_remembered():
            content = {"files": self._remembered.files, "sound": sorted(self._remembered.sound)}
            write_json(self.root / _DIGESTS, content)

    def _memory(self) -> "_Remembered":
        if self._remembered is None:
            self._remembered = self._read_remembered()
        return self._remembered

    def _read_remembered(self) -> "_Remembered":
        try:
            content = json.loads((self.root / _DIGESTS).read_text())
            files: dict[str, list[int | str]] = {}
            for path, (size, changed, digest) in content["files"].items():
                files[path] = [int(size), int(changed), str(digest)]
            return _Remembered(files, {str(item) for item in content["sound"]})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Damaged, or of an earlier version: everything is read once more.
            return _Remembered({}, set())


@dataclass
class _Remembered:
    """Content of ``digests.json``.

    Args:
        files: size, time of change in nanoseconds and digest, by absolute path.
        sound: fingerprints of what was found sound.
    """

    files: dict[str, list[int | str]]
    sound: set[str]


def _is_held(path: Path) -> bool:
    """True if some process holds a lock file; where that cannot be found out, it counts as held."""
    if sys.platform == "win32":
        try:
            with FileLock(path).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError as error:
            # On a disk that cannot be written there is no writer either.
            return error.errno != errno.EROFS
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return True
    try:
        # Who may only read can ask too, and two who ask do not take each other for writers. A writer that starts in
        # this moment waits for longer than it lasts.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def reading_artifact(path: Path, stage: Path) -> Iterator[None]:
    """Whatever goes wrong while the block reads a stage's file, damaged files being read in many ways.

    Args:
        path: the file.
        stage: the stage's folder, which has to be deleted for the file to be made again.

    Raises:
        WorkspaceError: the file is missing or damaged, and the one line names it and what to delete; or the machine
            cannot read it at the moment (no permission, too many open files, a fault of the disk), and the line names
            it alone, because what is there may well be sound.
        MemoryError, RuntimeError: a memory is full, as it was told.
    """
    try:
        yield
    except Exception as error:
        causes = list(_causes(error))
        for cause in causes:
            if full_memory(cause):
                raise cause from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        # Our own messages name the file already.
        told = str(error) if isinstance(error, Tag2MaskError) else f"{path}: cannot be read ({reason or 'damaged'})"
        if not any(_is_machines(cause, path) for cause in causes):
            told += f"; delete the folder {stage} and run again"
        raise WorkspaceError(told) from error


@contextlib.contextmanager
def reading_arrays(path: Path, stage: Path) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The arrays of a stage's ``.npz`` by name; safe to call from many threads.

    Args:
        path: the file.
        stage: the stage's folder.

    Raises:
        WorkspaceError, MemoryError, RuntimeError: as `reading_artifact`, of the block too.
    """
    with reading_artifact(path, stage):
        with _PARSING, np.load(path, allow_pickle=False) as content:
            arrays = dict(content)
        yield arrays


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those it was raised from: our own errors wrap those of decoders and of the system."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _is_machines(error: BaseException, path: Path) -> bool:
    """True if an error in reading a file is the machine's, and says nothing about the file's content."""
    if not isinstance(error, OSError):
        return False
    if isinstance(error, FileNotFoundError):
        # safetensors says this of whatever keeps it from opening a file.
        return path.exists()
    # Decoders raise errors without a number, and damaged zip archives lead to a seek in front of the file (EINVAL).
    # safetensors gives the system's errors as text only.
    return error.errno not in (None, errno.EINVAL) or "(os error " in str(error)
