"""The folder that keeps what runs make: stages by fingerprint, runs by method."""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tag2mask.data.images import content_digest
from tag2mask.errors import Tag2MaskError, WorkspaceError
from tag2mask.files import write_json

DIGESTS = "digests.json"
"""Name of the file of remembered digests."""


class Workspace:
    """A folder of artifacts.

    Layout: ``stages/<name>-<fingerprint>/`` one folder per stage, shared between runs; ``runs/<method>-<fingerprint>/``
    what a run tells about itself.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._lock = FileLock(self.root / ".lock")
        self._remembered: _Remembered | None = None

    @property
    def stages(self) -> Path:
        """Folder of all stages."""
        return self.root / "stages"

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return self.root / "runs"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second writer out while the block runs. A killed process leaves no lock behind.

        The same workspace object may lock again inside the block.

        Raises:
            WorkspaceError: another process holds the lock, or the folder cannot be written.
        """
        if self.root.exists() and not self.root.is_dir():
            raise WorkspaceError(f"{self.root}: a file, but the folder of a workspace is expected")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise WorkspaceError(
                f"{self.root}: another tag2mask is writing to this workspace; wait for it or give another --workspace"
            ) from None
        except OSError as error:
            raise WorkspaceError(f"{self.root}: cannot write to this workspace ({error.strerror})") from error
        try:
            yield
        finally:
            self._lock.release()

    def check_free(self) -> None:
        """Makes sure that the workspace can be written, where there is one; nothing is created where there is none.

        Raises:
            WorkspaceError: another process is writing, or the folder cannot be written.
        """
        if self.root.exists():
            with self.lock():
                pass

    def is_locked(self) -> bool:
        """Whether another process is writing; nothing is created to find out."""
        if not (self.root / ".lock").is_file():
            return False
        try:
            self.check_free()
        except WorkspaceError as error:
            # On a disk that cannot be written there is no writer either.
            return not isinstance(error.__cause__, OSError)
        return False

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
        """Whether something was found sound before: a photograph that could be decoded, by what it depends on."""
        return fingerprint in self._memory().sound

    def remember_sound(self, fingerprint: str) -> None:
        """Remembers something as sound; may be called from several threads."""
        self._memory().sound.add(fingerprint)

    def save_digests(self) -> None:
        """Writes what is remembered; without it a large data set would be read again at every start."""
        if self._remembered is not None and self._remembered != self._read_remembered():
            content = {"files": self._remembered.files, "sound": sorted(self._remembered.sound)}
            write_json(self.root / DIGESTS, content)

    def _memory(self) -> "_Remembered":
        if self._remembered is None:
            self._remembered = self._read_remembered()
        return self._remembered

    def _read_remembered(self) -> "_Remembered":
        try:
            content = json.loads((self.root / DIGESTS).read_text())
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


@contextlib.contextmanager
def reading_artifact(path: Path, stage: Path) -> Iterator[None]:
    """Whatever goes wrong while the block reads a stage's file, damaged files being read in many ways.

    Args:
        path: the file.
        stage: the stage's folder, which has to be deleted for the file to be made again.

    Raises:
        WorkspaceError: the file is missing or damaged; one line that names it and what to delete.
    """
    try:
        yield
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        # Our own messages name the file already.
        told = str(error) if isinstance(error, Tag2MaskError) else f"{path}: cannot be read ({reason or 'damaged'})"
        raise WorkspaceError(f"{told}; delete the folder {stage} and run again") from error


def cpu_count() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
