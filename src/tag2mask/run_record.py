"""What a run tells about itself, ``run.json``: written when it starts, and again when it has ended."""

import dataclasses
import importlib.metadata
import json
import platform
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from tag2mask.engine.fingerprint import fingerprint
from tag2mask.errors import WorkspaceError
from tag2mask.files import write_json
from tag2mask.settings import canonical

if TYPE_CHECKING:  # they import torch, which who only reads records can do without
    from tag2mask.configure import Configuration
    from tag2mask.engine.environment import Environment
    from tag2mask.engine.plan import Plan, StageRun

RUN_FILE = "run.json"
RunState = Literal["running", "finished"]
_LIBRARIES = ("tag2mask", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")


@dataclass(frozen=True)
class StageRecord:
    """A stage that a run uses.

    Args:
        name: of the kind of stage.
        split: the list of photographs it works on.
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
    """What a run tells about itself; all that is needed to make its settings again.

    Args:
        state: "running" from its start to its end, also in the file of a run that was killed; "finished" after.
        method: name of the method.
        data: the data folder as an absolute path; `run` has it as it was given.
        settings: of the method, without those that cannot change a result.
        run: run settings.
        runtime: machine settings, resolved.
        stages: the stages it uses, each after its inputs.
        directory: working directory at the start, which relative paths in `run` refer to.
        classes: names of the foreground classes.
        photographs: number of photographs by list.
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


def run_folder(plan: "Plan", method: str, env: "Environment") -> Path:
    """The folder of a run, ``<workspace>/runs/<method>-<fingerprint>/``: the same stages are the same run."""
    return (
        env.workspace.runs / f"{method}-{fingerprint(sorted(stage.fingerprint(env) for stage in plan.distinct(env)))}"
    )


def begin_run(plan: "Plan", configuration: "Configuration", env: "Environment") -> Path:
    """Writes the record of a run that starts now.

    Returns:
        the run's folder.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    folder = run_folder(plan, configuration.method.name, env)
    write_record(folder, _started(plan, configuration, env))
    return folder


def finish_run(
    plan: "Plan",
    runs: "list[StageRun]",
    metrics: dict[str, dict[str, Any]],
    configuration: "Configuration",
    env: "Environment",
) -> RunRecord:
    """Writes the record of a run that ends now; its start is taken from the record that `begin_run` wrote.

    Returns:
        the record, as `read_record` will read it.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    folder = run_folder(plan, configuration.method.name, env)
    record = _started(plan, configuration, env)
    if (folder / RUN_FILE).exists():
        record = dataclasses.replace(record, started=read_record(folder).started)
    stages = tuple(
        StageRecord(run.stage.name, run.stage.split, run.stage.folder(env).name, run.cached, round(run.seconds, 1))
        for run in runs
    )
    record = dataclasses.replace(record, state="finished", stages=stages, metrics=metrics, finished=_now())
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
        stages=tuple(StageRecord(stage.name, stage.split, stage.folder(env).name) for stage in plan.distinct(env)),
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
        WorkspaceError: there is none, or it is damaged; the message names the file.
    """
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {item.name for item in dataclasses.fields(RunRecord)}
        known = {"state": "finished", **{key: value for key, value in content.items() if key in names}}
        if known["state"] not in get_args(RunState):
            raise ValueError(f"state '{known['state']}' is not one of {', '.join(get_args(RunState))}")
        if not all(isinstance(known[name], dict) for name in ("settings", "run", "runtime")):
            raise TypeError("settings, run and runtime must be mappings")
        stages = tuple(StageRecord(**stage) for stage in known["stages"])
        return RunRecord(**known | {"stages": stages, "classes": tuple(known.get("classes", ()))})
    except FileNotFoundError:
        raise WorkspaceError(f"{path}: there is no such file; give the folder of a run") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkspaceError(f"{path}: not the record of a run, or damaged ({error})") from error


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _LIBRARIES}}
