"""Progress of slow things: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tag2mask.base.text import duration


class Reporter:
    """Messages and progress for a person.

    Args:
        stream: where to write; standard error by default, so that results on standard output stay clean.
        quiet: say nothing at all.
        interval: seconds between two plain lines about one task.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, interval: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.quiet = quiet
        self.interval = interval

    def say(self, text: str) -> None:
        """Prints one line."""
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    def task(self, title: str, total: int, done: int = 0) -> "Task":
        """A task of `total` steps, of which `done` were done by an earlier run. Use it as a context manager."""
        return Task(self, title, total, done)

    def callback(self, title: str) -> Callable[[int, int], None]:
        """A function of (steps done, steps in all), for code that knows nothing of reporters."""
        task: Task | None = None

        def progress(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = Task(self, title, total, done - 1).__enter__()
            task.advance()
            if done == total:
                task.__exit__(None, None, None)

        return progress


class Task:
    """One slow thing: call `advance` after each step."""

    def __init__(self, reporter: Reporter, title: str, total: int, done: int) -> None:
        self._reporter, self._title, self._total, self._done = reporter, title, total, done
        self._first = done
        self._bar: Progress | None = None
        self._bar_task: TaskID | None = None
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "Task":
        reporter = self._reporter
        if not reporter.quiet and reporter.stream.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=Console(file=reporter.stream))
            self._bar_task = self._bar.add_task(self._title, total=self._total, completed=self._done, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._done > self._first:
            seconds = time.monotonic() - self._started
            self._reporter.say(f"{self._title}: {self._done}/{self._total} in {duration(seconds)}")

    def advance(self, note: str = "") -> None:
        """Counts one step; `note` is shown beside the bar (a running loss, say)."""
        self._done += 1
        if self._bar is not None and self._bar_task is not None:
            self._bar.update(self._bar_task, completed=self._done, note=note)
            return
        now = time.monotonic()
        if now - self._said >= self._reporter.interval and self._done < self._total:
            self._said = now
            left = (now - self._started) / (self._done - self._first) * (self._total - self._done)
            tail = f" {note}" if note else ""
            self._reporter.say(f"{self._title}: {self._done}/{self._total}, about {duration(left)} left{tail}")
