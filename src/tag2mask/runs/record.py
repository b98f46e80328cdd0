"""Record of a run, ``run.json``: written when it starts, and again when it has ended."""

import dataclasses
import importlib.metadata
import json
import platform
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args

from tag2mask.base.files import write_json
from tag2mask.base.settings import canonical
from tag2mask.engine.fingerprint import fingerprint
from tag2mask.errors import WorkspaceError

if TYPE_CHECKING:  # they import torch, which who only reads records can do without
    from tag2mask.engine.environment import Environment
    from tag2mask.engine.graph import StageRun
    from tag2mask.engine.plan import Plan
    from tag2mask.engine.stage import Stage
    from tag2mask.runs.settings import Configuration

RUN_FILE = "run.json"
_HEADLINE_FIGURES = ("mean_iou", "mean_average_precision")
"""Names of the figures one asks for first, of masks and of classifiers; None where they are not defined."""

RunState = Literal["running", "finished"]
_LIBRARIES = ("tag2mask", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")


@dataclass(frozen=True)
class StageRecord:
    """A stage that a run uses.

    Args:
        name: of the kind of stage.
        split: the list of images it works on.
        folder: name of its folder below ``stages/``.
        cached: whether an earlier run had made it.
        seconds: spent on it by all runs so far; 0 while the run is running.
    """

    name: str
    split: str
    folder: str
    cached: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class RunRecord:
    """Record of a run; all that is needed to make its settings again.

    Args:
        state: "running" from its start to its end, also in the file of a run that was killed; "finished" after.
        method: name of the method.
        data: the data folder as an absolute path; `run` has it as it was given.
        settings: of the method, without those that cannot change a result.
        run: run settings.
        runtime: machine settings, resolved.
        stages: the stages it uses, each after its inputs.
        directory: working directory at the start, which relative paths in `run` and `settings` refer to.
        classes: names of the foreground classes.
        photographs: number of images by list.
        versions: of Python and libraries.
        started: date and time of the start with the offset from UTC (ISO 8601); empty in records of early versions.
        finished: of the end; empty while the run is running.
        metrics: figures by the name of what was measured; empty while the run is running.
        model: the model file, relative to the run's folder.
        masks: the folder of masks, likewise.
    """

    state: RunState
    method: str
    data: str
    settings: dict[str, Any]
    run: dict[str, Any]
    runtime: dict[str, Any]
    stages: tuple[StageRecord, ...]
    directory: str = ""
    classes: tuple[str, ...] = ()
    photographs: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    started: str = ""
    finished: str = ""
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    model: str = "model.safetensors"
    masks: str = "masks"


def _stages(plan: "Plan", env: "Environment") -> "list[Stage]":
    from tag2mask.engine.graph import distinct  # imports torch

    return distinct(plan.stages(), env)


def run_folder(plan: "Plan", method: str, env: "Environment") -> Path:
    """The folder of a run, ``<workspace>/runs/<method>-<fingerprint>/``: the same stages are the same run."""
    made = sorted(stage.fingerprint(env) for stage in _stages(plan, env))
    return env.workspace.runs / f"{method}-{fingerprint(made)}"


def begin_run(plan: "Plan", configuration: "Configuration", env: "Environment") -> RunRecord:
    """Writes the record of a run that starts now.

    The record of the same run that had finished stays as long as all its stages are whole: there is nothing newer yet,
    and if this one is interrupted its figures, its report and its place in the workspace are kept.

    Returns:
        the record of the run that starts, whether it was written or not.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    folder = run_folder(plan, configuration.method.name, env)
    record = _started(plan, configuration, env)
    if not (_is_finished(folder) and all(stage.complete(env) for stage in _stages(plan, env))):
        write_record(folder, record)
    return record


def _is_finished(folder: Path) -> bool:
    try:
        return read_record(folder).state == "finished"
    except WorkspaceError:
        # There is none, or it is damaged: nothing to keep.
        return False


def finish_run(
    plan: "Plan",
    runs: "list[StageRun]",
    metrics: dict[str, dict[str, Any]],
    configuration: "Configuration",
    env: "Environment",
    *,
    started: str = "",
) -> RunRecord:
    """Writes the record of a run that ends now.

    Args:
        plan: its stages.
        runs: what making each of them took.
        metrics: figures by the name of what was measured.
        configuration: its settings.
        env: what it was made in.
        started: date and time of its start, as `begin_run` has it; now if empty.

    Returns:
        the record, as `read_record` will read it.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    folder = run_folder(plan, configuration.method.name, env)
    record = _started(plan, configuration, env)
    stages = tuple(
        StageRecord(run.stage.name, run.stage.split, run.stage.folder(env).name, run.cached, round(run.seconds, 1))
        for run in runs
    )
    record = dataclasses.replace(
        record,
        state="finished",
        stages=stages,
        metrics=metrics,
        started=started or record.started,
        finished=_now(),
    )
    write_record(folder, record)
    return read_record(folder)


def _started(plan: "Plan", configuration: "Configuration", env: "Environment") -> RunRecord:
    return RunRecord(
        state="running",
        method=configuration.method.name,
        data=str(Path(configuration.run.data).resolve()),
        settings=canonical(configuration.settings),
        run=canonical(configuration.run),
        runtime=dataclasses.asdict(env.runtime),
        stages=tuple(StageRecord(stage.name, stage.split, stage.folder(env).name) for stage in _stages(plan, env)),
        directory=str(Path.cwd()),
        classes=env.dataset.classes,
        photographs={split.name: len(split) for split in env.dataset.splits},
        versions=_versions(),
        started=_now(),
    )


def write_record(folder: Path, record: RunRecord) -> None:
    """Writes ``run.json`` into a run's folder, atomically.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    write_json(folder / RUN_FILE, dataclasses.asdict(record))


def read_record(folder: Path) -> RunRecord:
    """Reads the record of a run's folder.

    A record without a state is one of an early version, which wrote it at the end only: such a run is finished.

    Raises:
        WorkspaceError: there is none, or it cannot be read or is damaged; the message names the file.
    """
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {item.name for item in dataclasses.fields(RunRecord)}
        known = {"state": "finished", **{key: value for key, value in content.items() if key in names}}
        stages = tuple(StageRecord(**stage) for stage in known["stages"])
        record = RunRecord(**known | {"stages": stages, "classes": tuple(known.get("classes", ()))})
        _check_kinds(record)
        return record
    except (FileNotFoundError, NotADirectoryError):
        raise WorkspaceError(f"{path}: there is no such file; give the folder of a run") from None
    except OSError as error:
        # Its text names the file again.
        raise WorkspaceError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WorkspaceError(f"{path}: not the record of a run, or damaged ({error})") from error


def _check_kinds(record: RunRecord) -> None:
    """Makes sure that every entry is of the kind that readers of a record count on.

    Raises:
        TypeError, ValueError: one is not; the message names it.
    """
    if record.state not in get_args(RunState):
        raise ValueError(f"state '{record.state}' is not one of {', '.join(get_args(RunState))}")
    for name in ("method", "data", "directory", "started", "finished", "model", "masks"):
        _check_kind(name, getattr(record, name), str)
    for name in ("settings", "run", "runtime", "photographs", "versions", "metrics"):
        _check_kind(name, getattr(record, name), dict)
    for moment in (record.started, record.finished):
        if moment:
            datetime.fromisoformat(moment)
    for name in record.classes:
        _check_kind("classes", name, str)
    for count in record.photographs.values():
        _check_kind("photographs", count, int)
    for key, figures in record.metrics.items():
        _check_kind(f"metrics.{key}", figures, dict)
        for headline in _HEADLINE_FIGURES:
            _check_kind(f"metrics.{key}.{headline}", figures.get(headline, 0.0), float | int | None)
        _check_kind(f"metrics.{key}.saliency", figures.get("saliency", ""), str)
    for stage in record.stages:
        for name in ("name", "split", "folder"):
            _check_kind(f"stages.{name}", getattr(stage, name), str)
        _check_kind("stages.cached", stage.cached, bool)
        _check_kind("stages.seconds", stage.seconds, float | int)


def _check_kind(name: str, value: object, kind: type | UnionType) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} is of type {type(value).__name__}")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _LIBRARIES}}
