"""Runs and stages of a workspace, what they take of the disk, and what of it no run uses."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tag2mask.base.files import ASIDE_SUFFIX, folder_size
from tag2mask.base.text import percent, plural
from tag2mask.data.truth import FROM_TRUTH
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import WorkspaceError, unknown_choice
from tag2mask.runs.record import RUN_FILE, RunRecord, read_record

_STAGE_NAME = re.compile(r"\w+-[0-9a-f]{16}")


@dataclass(frozen=True)
class ListedRun:
    """A run of a workspace.

    Args:
        name: of its folder.
        state: "finished"; "running", by another process; "unfinished": killed or failed, the same command goes on;
            "damaged": its record cannot be read.
        date: of its end, or of its start if it has not ended (ISO 8601); of its file where the record, of an early
            version, does not say; empty where there is no record.
        data: the data folder.
        headline: the figure one asks for first; empty if there is none yet.
        bytes: size of its own folder.
        stage_bytes: size of the stages it uses, shared ones included.
        stages: names of the stages it uses.
    """

    name: str
    state: Literal["finished", "running", "unfinished", "damaged"]
    date: str
    data: str
    headline: str
    bytes: int
    stage_bytes: int
    stages: tuple[str, ...]


@dataclass(frozen=True)
class ListedStage:
    """A stage of a workspace.

    Args:
        name: of its folder.
        complete: whether it is whole.
        bytes: size of its folder.
        runs: names of the runs that use it.
    """

    name: str
    complete: bool
    bytes: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class WorkspaceListing:
    """Contents of a workspace.

    Args:
        root: the workspace.
        runs: its runs, those that ended last first.
        stages: its stages, by name.
        leftovers: what killed processes left half-written, relative to the workspace.
        leftover_bytes: size of that.
    """

    root: Path
    runs: tuple[ListedRun, ...]
    stages: tuple[ListedStage, ...]
    leftovers: tuple[str, ...]
    leftover_bytes: int

    @property
    def bytes(self) -> int:
        """Size of all runs and stages, with leftovers."""
        # Half-written files are in their folder's size already.
        folders = sum(size_on_disk(self.root / name) for name in self.leftovers if _is_whole_folder(name))
        return folders + sum(run.bytes for run in self.runs) + sum(stage.bytes for stage in self.stages)

    @cached_property
    def prunable(self) -> int:
        """Bytes that `prune_workspace` frees without further options; 0 while a record cannot be read."""
        if any(run.state == "damaged" for run in self.runs):
            return 0
        return what_goes(self, (), unfinished=False).bytes

    def to_dict(self) -> dict[str, Any]:
        """The listing as JSON can hold it."""
        return dataclasses.asdict(self) | {"root": str(self.root), "bytes": self.bytes, "prunable": self.prunable}

    def table(self) -> str:
        """The listing as text for a person."""
        rows = [f"{'run':<32} {'state':<10} {'date':<16} {'figure':<23} {'own':>9} {'stages':>9}  data"]
        for run in self.runs:
            date = run.date[:16].replace("T", " ")
            rows.append(
                f"{run.name:<32} {run.state:<10} {date or '-':<16} {run.headline or '-':<23} {in_bytes(run.bytes):>9} "
                f"{in_bytes(run.stage_bytes):>9}  {run.data or '-'}"
            )
        rows += ["", f"{'stage':<40} {'state':<10} {'runs':>4} {'size':>9}"]
        for stage in self.stages:
            state = "complete" if stage.complete else "unfinished"
            rows.append(f"{stage.name:<40} {state:<10} {len(stage.runs):>4} {in_bytes(stage.bytes):>9}")
        rows += [
            "",
            f"{_count(self.runs, 'run')} and {_count(self.stages, 'stage')}, {in_bytes(self.bytes)} in all; "
            f"`tag2mask workspace prune {self.root}` would free {in_bytes(self.prunable)}",
        ]
        return "\n".join(rows)


@dataclass(frozen=True)
class Pruned:
    """Runs and stages deleted from a workspace, or to be deleted.

    Args:
        runs: names of runs.
        stages: names of stages.
        leftovers: what killed processes left half-written, relative to the workspace.
        bytes: size of it all.
        deleted: whether it is gone; otherwise this is what would go.
    """

    runs: tuple[str, ...]
    stages: tuple[str, ...]
    leftovers: tuple[str, ...]
    bytes: int
    deleted: bool

    def text(self) -> str:
        """The same for a person."""
        rows = [
            f"{kind:<9} {name}"
            for kind, names in (("run", self.runs), ("stage", self.stages), ("leftover", self.leftovers))
            for name in names
        ]
        if not rows:
            return "nothing to free"
        end = "deleted" if self.deleted else "nothing was deleted; --yes deletes it"
        kinds = ((self.runs, "run"), (self.stages, "stage"), (self.leftovers, "leftover"))
        counts = ", ".join(_count(names, kind) for names, kind in kinds if names)
        return "\n".join([*rows, f"{counts}, {in_bytes(self.bytes)}: {end}"])


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {plural(len(things), name)}"


def in_bytes(count: int) -> str:
    """A size as people say it: "5 kB", "1.2 GB"."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def list_workspace(workspace: str | Path = "workspace") -> WorkspaceListing:
    """Runs and stages of a workspace, their sizes and which uses which. Nothing is written and nothing locked.

    Args:
        workspace: its folder.

    Raises:
        WorkspaceError: there is no such folder, or it is no workspace.
    """
    root = checked_root(Path(workspace))
    return listed(root, locked=Workspace(root).is_locked())


def checked_root(root: Path) -> Path:
    """A folder that is a workspace.

    Raises:
        WorkspaceError: it is not, or there is none.
    """
    if not root.is_dir():
        raise WorkspaceError(
            f"{root}: {'a file, but the folder of a workspace is expected' if root.exists() else 'no such folder'}"
        )
    if not Workspace(root).is_used:
        raise WorkspaceError(f"{root}: not a workspace; give the folder that `tag2mask run` got as --workspace")
    for name in ("runs", "stages"):
        if (root / name).is_symlink():
            raise WorkspaceError(f"{root / name}: a link; links are not followed out of a workspace")
    return root


def listed(root: Path, *, locked: bool) -> WorkspaceListing:
    """The listing of a workspace.

    Args:
        root: its folder.
        locked: whether another process is writing to it.
    """
    stage_folders = {path.name: path for path in _folders(root / "stages") if _STAGE_NAME.fullmatch(path.name)}
    sizes = {name: folder_size(path) for name, path in stage_folders.items()}
    runs = [_listed_run(folder, sizes, locked=locked) for folder in _folders(root / "runs")]
    users: dict[str, list[str]] = {}
    for run in runs:
        for name in run.stages:
            users.setdefault(name, []).append(run.name)
    stages = tuple(
        ListedStage(name, (path / "stage.json").is_file(), sizes[name], tuple(users.get(name, ())))
        for name, path in stage_folders.items()
    )
    # While a process is writing, a file aside is no leftover.
    leftovers = () if locked else tuple(_leftovers(root))
    return WorkspaceListing(
        root,
        tuple(sorted(runs, key=lambda run: run.date, reverse=True)),
        stages,
        tuple(str(path.relative_to(root)) for path in leftovers),
        sum(map(size_on_disk, leftovers)),
    )


def _folders(parent: Path) -> Iterator[Path]:
    """Folders in a folder by name, without links and without what is half deleted."""
    if parent.is_dir():
        for path in sorted(parent.iterdir()):
            if path.is_dir() and not path.is_symlink() and path.suffix != ASIDE_SUFFIX:
                yield path


def _leftovers(root: Path) -> Iterator[Path]:
    """Half-written files in stages and runs, and folders that were being deleted."""
    for parent in (root / "stages", root / "runs"):
        if parent.is_dir():
            for path in sorted(parent.iterdir()):
                if path.suffix == ASIDE_SUFFIX and path.is_dir() and not path.is_symlink():
                    yield path
            for folder in _folders(parent):
                # Only files: a folder of photographs may be called so, and then its maps lie in one.
                yield from sorted(path for path in folder.rglob(f"*{ASIDE_SUFFIX}") if path.is_file())


def _is_whole_folder(leftover: str) -> bool:
    return len(Path(leftover).parts) == 2


def size_on_disk(path: Path) -> int:
    """Bytes of a file, a link or a folder with all in it; links are not followed."""
    return folder_size(path) if path.is_dir() and not path.is_symlink() else path.lstat().st_size


def _listed_run(folder: Path, sizes: dict[str, int], *, locked: bool) -> ListedRun:
    own = folder_size(folder)
    if not (folder / RUN_FILE).exists():
        # Early versions wrote the record last: this one was killed before.
        return ListedRun(folder.name, "unfinished", "", "", "", own, 0, ())
    try:
        record = read_record(folder)
    except WorkspaceError:
        return ListedRun(folder.name, "damaged", "", "", "", own, 0, ())
    state: Literal["finished", "running", "unfinished"] = "finished"
    if record.state == "running":
        state = "running" if locked else "unfinished"
    stages = tuple(stage.folder for stage in record.stages)
    size = sum(sizes.get(name, 0) for name in stages)
    written = datetime.fromtimestamp((folder / RUN_FILE).stat().st_mtime).astimezone().isoformat(timespec="seconds")
    date = record.finished or record.started or written
    return ListedRun(folder.name, state, date, record.data, _headline(record), own, size, stages)


def _headline(record: RunRecord) -> str:
    """The figure one asks for first: of the masks of val where there is truth, else of the classifier.

    It says so where saliency was used, whose maker learnt from masks of other data, or which is the ground truth.
    """
    figures = record.metrics
    if "mean_iou" in figures.get("val", {}):
        saliency = figures["val"].get("saliency", "")
        mark = ", TRUE saliency" if FROM_TRUTH in saliency else ", saliency" if saliency else ""
        return f"val mIoU {percent(figures['val']['mean_iou'])}{mark}"
    for values in figures.values():
        if "mean_average_precision" in values:
            return f"mAP {percent(values['mean_average_precision'])}"
    return ""


def find_run_folder(given: str | Path) -> Path:
    """The folder of a run that was given by its path, or by a file in it.

    What is no path can be the name of a run of the workspace ``workspace`` or the beginning of one, and ends a path to
    the runs of another workspace likewise.

    Returns:
        the absolute path; whether a run's record is in it is not looked at.

    Raises:
        WorkspaceError: there is no such run, with those that there are, or the name fits several.
    """
    path = Path(given)
    if path.exists():
        return (path if path.is_dir() else path.parent).resolve()
    root = Path("workspace") if len(path.parts) == 1 else path.parent.parent
    if (len(path.parts) > 1 and path.parent.name != "runs") or not (root / "runs").is_dir():
        raise WorkspaceError(
            f"{given}: there is no such run; give its folder, or the name of one in the folder 'workspace'"
        )
    return (root / "runs" / find_run(list_workspace(root), path.name)).resolve()


def find_run(listing: WorkspaceListing, given: str | Path) -> str:
    """The name of a run that was given by its name, the beginning of it, or its path.

    Raises:
        WorkspaceError: it is none of the workspace's, with those that there are, or the name fits several.
    """
    names = [run.name for run in listing.runs]
    folder = listing.root / "runs"
    path = Path(given)
    if len(path.parts) > 1:
        if path.resolve().parent != folder.resolve() or path.name not in names:
            raise WorkspaceError(f"{given}: not a run of this workspace; its runs are in {folder}")
        return path.name
    fitting = [path.name] if path.name in names else [name for name in names if name.startswith(path.name)]
    if not fitting or not path.name:
        raise WorkspaceError(f"{folder}: {unknown_choice('run', given, names or ['none'])}")
    if len(fitting) > 1:
        raise WorkspaceError(f"{folder}: '{given}' fits several runs: {', '.join(fitting)}")
    return fitting[0]


def what_goes(listing: WorkspaceListing, runs: Sequence[str], *, unfinished: bool) -> Pruned:
    """Everything that would be freed with these runs gone; arguments as for `prune_workspace`.

    Raises:
        WorkspaceError: the record of a run that stays is damaged.
    """
    going = {run.name for run in listing.runs if run.name in runs or (unfinished and run.state == "unfinished")}
    for run in listing.runs:
        if run.state == "damaged" and run.name not in going:
            folder = listing.root / "runs" / run.name
            raise WorkspaceError(
                f"{folder / RUN_FILE}: damaged, so the stages this run uses are not known; start the run again, or "
                f"delete it with --run {run.name}"
            )
    stages = [
        stage
        for stage in listing.stages
        if (set(stage.runs) <= going and (stage.runs or stage.complete))
        or (unfinished and not stage.complete and not _in_use(listing, stage))
    ]
    gone = {*(f"runs/{name}" for name in going), *(f"stages/{stage.name}" for stage in stages)}
    # What lies in a folder that goes as a whole is not counted twice.
    leftovers = [
        name for name in listing.leftovers if "/".join(Path(name).parts[:2]) not in gone or _is_whole_folder(name)
    ]
    size = sum(run.bytes for run in listing.runs if run.name in going) + sum(stage.bytes for stage in stages)
    return Pruned(
        runs=tuple(sorted(going)),
        stages=tuple(stage.name for stage in stages),
        leftovers=tuple(leftovers),
        bytes=size + sum(size_on_disk(listing.root / name) for name in leftovers),
        deleted=False,
    )


def _in_use(listing: WorkspaceListing, stage: ListedStage) -> bool:
    """True if a process is making the stage at this moment."""
    return any(run.state == "running" and run.name in stage.runs for run in listing.runs)
