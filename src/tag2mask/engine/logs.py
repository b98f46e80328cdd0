"""A training's log: JSON lines for programs, TensorBoard for people."""

import json
import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from tag2mask.base.files import naming, write_bytes

_FILE_VERSION = "brain.Event:2"  # the first record of every event file


class TrainingLog:
    """Appends scalars to ``log.jsonl`` and ``tensorboard/`` in a stage's folder.

    Records of TensorBoard are written here and not by its `SummaryWriter`, whose thread prints a trace of its own when
    the disk is full and leaves what it still holds unwritten when the process is killed.

    Args:
        folder: the stage's folder.
        step: the step a resumed training goes on from; lines of later steps, which will come again, are dropped.

    Raises:
        OSError: the disk is full or cannot be written, with the file's name; `write` likewise.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._path = folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            kept = [line for line in self._path.read_text().splitlines(keepends=True) if _step_of(line) <= step]
            write_bytes(self._path, "".join(kept).encode())
        # One file for each time a training was started; TensorBoard goes by this name.
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._events = folder / "tensorboard" / name
        with naming(self._events):
            self._events.parent.mkdir(exist_ok=True)
        # What an earlier file says of steps from here on is forgotten: they will come again.
        start = SessionLog(status=SessionLog.START)
        self._record(Event(file_version=_FILE_VERSION), Event(step=step + 1, session_log=start))

    def write(self, step: int, **scalars: float) -> None:
        """Logs named values at a step."""
        with naming(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._record(*(Event(step=step, summary=scalar(name, value)) for name, value in scalars.items()))

    def _record(self, *events: Event) -> None:
        with naming(self._events), self._events.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                event.wall_time = time.time()
                writer.write(event.SerializeToString())


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a training's ``log.jsonl``; a line cut short by a kill is left out."""
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if _step_of(line) < _NEVER]


_NEVER = 1 << 62


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return _NEVER
