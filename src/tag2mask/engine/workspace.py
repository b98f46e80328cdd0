"""The folder that keeps what runs make: stages by fingerprint, runs by method."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tag2mask.data.images import content_digest
from tag2mask.errors import WorkspaceError
from tag2mask.files import write_json


class Workspace:
    """A folder of artifacts.

    Layout: ``stages/<name>-<fingerprint>/`` one folder per stage, shared between runs; ``runs/<method>-<fingerprint>/``
    what a run tells about itself.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._lock = FileLock(self.root / ".lock")
        self._digests: dict[str, list[int | str]] | None = None

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

    def digest(self, path: Path) -> str:
        """Digest of a file's content, remembered for as long as its size and time stay the same."""
        if self._digests is None:
            self._digests = self._read_digests()
        key, status = str(path.resolve()), path.stat()
        known = self._digests.get(key)
        if known is None or known[:2] != [status.st_size, status.st_mtime_ns]:
            known = [status.st_size, status.st_mtime_ns, content_digest(path)]
            self._digests[key] = known
        return str(known[2])

    def save_digests(self) -> None:
        """Writes the remembered digests; without them a large data set would be read again at every start."""
        if self._digests is not None and self._digests != self._read_digests():
            write_json(self.root / "digests.json", self._digests)

    def _read_digests(self) -> dict[str, list[int | str]]:
        path = self.root / "digests.json"
        try:
            loaded: dict[str, list[int | str]] = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return loaded


def cpu_count() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
