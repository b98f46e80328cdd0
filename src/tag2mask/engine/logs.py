"""A training's log: JSON lines for programs, TensorBoard for people."""

import json
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter


class TrainingLog:
    """Appends scalars to ``log.jsonl`` and ``tensorboard/`` in a stage's folder. Use it as a context manager.

    Args:
        folder: the stage's folder.
        step: the step a resumed training goes on from; lines of later steps, which will come again, are dropped.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._path = folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            kept = [line for line in self._path.read_text().splitlines(keepends=True) if _step_of(line) <= step]
            self._path.write_text("".join(kept))
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, step: int, **scalars: float) -> None:
        """Logs named values at a step."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)


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
