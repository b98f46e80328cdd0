"""Stages: what methods are made of. They are nodes of a graph, and nothing runs until it is asked for an artifact."""

import contextlib
import copy
import json
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar
from weakref import WeakKeyDictionary

import torch

from tag2mask.base.files import write_bytes, write_json
from tag2mask.base.settings import canonical
from tag2mask.base.versions import code_below
from tag2mask.data.layers import MapLayer
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment, Reads, SplitName
from tag2mask.engine.fingerprint import fingerprint
from tag2mask.engine.workspace import reading_artifact

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a stage: seconds of work and bytes on disk, both rough."""

    seconds: float
    bytes: float


class Stage(ABC):
    """A step of a method: typed settings, named inputs, one folder of output.

    Subclasses give `name`, `version` (raised whenever the class's own code comes to other results; see `full_version`)
    and `reads`, what they may know of the images. `on_device` stages run a network on images on the environment's
    device. `by_threads` says whether the number of threads can change a bit of the artifact.

    Args:
        settings: the stage's own dataclass; part of the fingerprint.
        split: the list of images it works on.
        inputs: the stages it reads, by the name it knows them by.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reads: Reads
    on_device: ClassVar[bool] = False
    by_threads: ClassVar[bool] = True

    def __init__(self, settings: Any, split: SplitName, **inputs: "Stage") -> None:
        self.settings = settings
        self.split: SplitName = split
        self.inputs = inputs
        self._fingerprints: WeakKeyDictionary[Environment, str] = WeakKeyDictionary()

    def on(self, split: SplitName) -> Self:
        """The same stage on another split; its inputs stay what they are."""
        twin = copy.copy(self)
        twin.split = split
        twin._fingerprints = WeakKeyDictionary()
        return twin

    @classmethod
    def full_version(cls) -> Any:
        """The version of all code that the stage is built on.

        Returns:
            the class's own `version` and, where they are above 1, those of its base classes and of the code
            (`base.versions.Code`) that its modules import from. Other stages are its inputs and count by their own.
        """
        family = [kind for kind in cls.__mro__ if "version" in vars(kind)]
        others = {kind.__name__: vars(kind)["version"] for kind in family[1:]}
        others |= {code.name: code.version for code in code_below(_homes(cls.__mro__), _stage_homes())}
        raised = {name: version for name, version in others.items() if version != 1}
        return [cls.version, raised] if raised else cls.version

    def identity(self, env: Environment) -> Any:
        """Whatever else the result depends on, as canonical values: the identity of pretrained weights, say."""
        return None

    def fingerprint(self, env: Environment) -> str:
        """Digest of all that the artifact depends on: settings, inputs, data, code version, machine settings."""
        if env not in self._fingerprints:
            self._fingerprints[env] = fingerprint(
                {
                    "name": self.name,
                    "version": self.full_version(),
                    "settings": self.settings,
                    "inputs": {name: stage.fingerprint(env) for name, stage in self.inputs.items()},
                    "data": env.data_fingerprint(self.split, self.reads),
                    "split": self.split,
                    "runtime": env.runtime_fingerprint(by_threads=self.by_threads),
                    "identity": self.identity(env),
                }
            )
        return self._fingerprints[env]

    def folder(self, env: Environment) -> Path:
        """Folder of the artifact."""
        return env.workspace.stages / f"{self.name}-{self.fingerprint(env)}"

    def complete(self, env: Environment) -> bool:
        """True if the artifact is whole."""
        return (self.folder(env) / "stage.json").is_file()

    def samples(self, env: Environment) -> tuple[Sample, ...]:
        """The samples of its split, without what it does not read."""
        return env.samples(self.split, self.reads)

    def run(self, env: Environment) -> None:
        """Makes the artifact, going on where an earlier run was stopped."""
        started = time.monotonic()
        try:
            self.produce(env)
        except BaseException:
            # On a full disk the time cannot be written either; what is told is the first error.
            with contextlib.suppress(OSError):
                self._add_seconds(env, time.monotonic() - started)
            raise
        self._add_seconds(env, time.monotonic() - started)
        write_json(
            self.folder(env) / "stage.json",
            {
                "name": self.name,
                "version": self.full_version(),
                "fingerprint": self.fingerprint(env),
                "split": self.split,
                "settings": canonical(self.settings),
                "inputs": {name: stage.fingerprint(env) for name, stage in self.inputs.items()},
            },
        )

    def seconds(self, env: Environment) -> float:
        """Seconds spent on the artifact so far, over all runs that worked on it."""
        try:
            return float(json.loads((self.folder(env) / "timing.json").read_text())["seconds"])
        except (OSError, ValueError, KeyError):
            return 0.0

    def _add_seconds(self, env: Environment, seconds: float) -> None:
        # Nothing is created for a stage that failed before it made anything.
        if self.folder(env).is_dir():
            write_json(self.folder(env) / "timing.json", {"seconds": round(self.seconds(env) + seconds, 3)})

    def at_a_time(self, env: Environment) -> int:
        """Number of images, or blocks of them, that are worked on at the same time."""
        return env.runtime.on_device_at_a_time if self.on_device else env.runtime.threads

    @abstractmethod
    def produce(self, env: Environment) -> None:
        """Makes what is missing of the artifact."""

    @abstractmethod
    def estimate(self, env: Environment) -> Estimate:
        """Cost of the whole stage on this machine, from a short measurement."""

    def metrics(self, env: Environment) -> dict[str, Any]:
        """Figures of a complete stage that a run reports; none by default."""
        return {}

    def headline(self, env: Environment) -> str:
        """A complete stage's figures that one asks for first, in a line; empty by default."""
        return ""

    def details(self, env: Environment) -> list[str]:
        """More figures of a complete stage, a line each; none by default."""
        return []

    def notes(self, env: Environment) -> list[str]:
        """Notes for a reader of a complete stage's figures, a sentence each; none by default."""
        return []

    def draw(self, env: Environment, folder: Path) -> list[Path]:
        """Pictures of a complete stage as a whole, written to a folder; none by default."""
        return []


def _homes(kinds: Iterable[type]) -> set[str]:
    return {kind.__module__ for kind in kinds if issubclass(kind, Stage)}


def _stage_homes() -> frozenset[str]:
    """Modules that have stages in them."""
    kinds, waiting = {Stage}, [Stage]
    while waiting:
        below = set(waiting.pop().__subclasses__()) - kinds
        kinds |= below
        waiting += below
    return frozenset(_homes(kinds))


class PerImageStage(Stage):
    """A pure function of one image, its inputs' artifacts for it and stage-wide inputs: one file per image.

    As many images are worked on at a time as the settings allow threads, each on one thread: networks, the CRF and
    image coding spend their time outside the interpreter's lock, and threads that share an image would wait for each
    other at every layer. Hence a result does not depend on how many are worked on at a time.
    """

    suffix: ClassVar[str]
    by_threads = False

    @abstractmethod
    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        """Loads stage-wide inputs once and returns the function of one sample, which returns the file's content."""

    def path(self, env: Environment, image_id: str) -> Path:
        """File of one image."""
        return self.folder(env) / "items" / f"{image_id}{self.suffix}"

    def layers(self, env: Environment, image_id: str) -> dict[str, MapLayer]:
        """Layers of an image's artifact for a run's pictures and its report; none by default.

        Returns:
            layers by name: "" is the one that sheets show, further ones (a class's own map, say) are the report's alone
            and are called by the column's name and their own. Without "" a sheet shows the image.
        """
        return {}

    def produce(self, env: Environment) -> None:
        samples = self.samples(env)
        missing = [sample for sample in samples if not self.path(env, sample.id).is_file()]
        if not missing:
            return
        function = self.open(env)

        def make(sample: Sample) -> None:
            write_bytes(self.path(env, sample.id), function(sample))

        with env.reporter.task(f"{self.name} ({self.split})", len(samples), len(samples) - len(missing)) as task:
            map_threads(make, missing, self.at_a_time(env), lambda _: task.advance())


def map_threads(function: Callable[[T], None], items: list[T], threads: int, done: Callable[[T], None]) -> None:
    """Applies a function to all items on several threads; the first error ends it, with no more items started.

    Within the function torch uses one thread, however many there are.
    """
    if threads == 1:
        # The calling thread itself: memory that other threads free goes back to the system, page by page.
        own = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for item in items:
                function(item)
                done(item)
        finally:
            torch.set_num_threads(own)
        return
    waiting = iter(items)
    with one_thread_each(threads) as pool:
        running: dict[Future[None], T] = {pool.submit(function, item): item for item in islice(waiting, threads)}
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                item = running.pop(future)
                future.result()
                done(item)
                running |= {pool.submit(function, following): following for following in islice(waiting, 1)}


def map_in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Results of a function in the order of the items, made by several threads a little ahead of their use.

    Only some results per thread are ever held, however many items there are. The first error is raised in its place.
    Within the function torch uses one thread, however many there are.
    """
    with one_thread_each(threads) as pool:
        running: deque[Future[R]] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


@contextlib.contextmanager
def one_thread_each(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads in each of which torch computes on that thread alone."""
    own = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                yield pool
            except BaseException:
                # An error, or whoever uses the results needs no more of them: what waits is not begun.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        # The number holds for the thread that sets it, but threads that are started later take it over.
        torch.set_num_threads(own)


class Accumulator(Protocol):
    """A running result over samples, as the reduce kind of stage needs it."""

    def add(self, sample: Sample) -> None:
        """Takes one sample in."""

    def merge(self, other: Any) -> None:
        """Takes in what another accumulator has seen after this one."""

    def result(self) -> dict[str, Any]:
        """The result as JSON values."""


class ReduceStage(Stage):
    """A map over fixed blocks of images, merged in fixed order, with one ``result.json``.

    As many blocks are worked on at a time as there are threads, each on one thread. The blocks do not depend on that
    number, and neither does the rounding of the sums.
    """

    block: ClassVar[int] = 8
    by_threads = False

    @abstractmethod
    def open(self, env: Environment) -> Callable[[], Accumulator]:
        """Loads stage-wide inputs once and returns a maker of empty accumulators."""

    def produce(self, env: Environment) -> None:
        samples = self.samples(env)
        new = self.open(env)
        total = new()
        advancing = threading.Lock()
        with env.reporter.task(f"{self.name} ({self.split})", len(samples)) as task:

            def accumulate(start: int) -> Accumulator:
                part = new()
                for sample in samples[start : start + self.block]:
                    part.add(sample)
                    with advancing:
                        task.advance()
                return part

            blocks = range(0, len(samples), self.block)
            for part in map_in_order(accumulate, blocks, self.at_a_time(env)):
                total.merge(part)
        write_json(self.folder(env) / "result.json", total.result())

    def metrics(self, env: Environment) -> dict[str, Any]:
        path = self.folder(env) / "result.json"
        with reading_artifact(path, path.parent):
            loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded
