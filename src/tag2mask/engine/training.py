"""The training loop: one system, named optimisers, exact resume."""

import contextlib
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, default_collate

from tag2mask.base.files import atomic_path
from tag2mask.base.processors import cpu_count
from tag2mask.base.settings import LATER, OMIT
from tag2mask.base.versions import Code
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment, Runtime
from tag2mask.engine.logs import TrainingLog
from tag2mask.engine.schedules import ScheduleSettings, rate_factor
from tag2mask.engine.seeding import generator, seed_torch
from tag2mask.engine.stage import Estimate, Stage, one_thread_each
from tag2mask.engine.system import Batch, Losses, Position, System, total_loss
from tag2mask.errors import SettingsError, Tag2MaskError, WorkspaceError

CODE = Code("training loop")

MODEL_FILE = "model.safetensors"


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training: optimiser, length, schedule.

    Args:
        epochs: passes over the training photographs; the state after the last one counts.
        steps: training steps, in place of `epochs`: papers that count iterations; 0 goes by epochs.
        batch_size: photographs per step, in all.
        optimizer: "sgd", "adam" or "adamw".
        learning_rate: base rate, the backbone's.
        head_multiplier: new layers learn this many times as fast.
        momentum: of SGD.
        weight_decay: of every optimiser.
        gradient_clip: largest norm of the gradient; 0 leaves it alone.
        schedule: how the rate moves.
        checkpoint_seconds: at least this often (and after each epoch) the state is saved, to go on from after a kill.
    """

    epochs: int = 5
    batch_size: int = 16
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.01
    head_multiplier: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    gradient_clip: float = 0.0
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    checkpoint_seconds: float = field(default=60.0, metadata=OMIT)
    steps: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam", "adamw"):
            raise SettingsError(f"training.optimizer: '{self.optimizer}' is not one of sgd, adam, adamw")
        for name in ("epochs", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"training.{name}: {getattr(self, name)} must be above 0")
        for name in ("head_multiplier", "momentum", "weight_decay", "gradient_clip", "checkpoint_seconds", "steps"):
            if getattr(self, name) < 0:
                raise SettingsError(f"training.{name}: {getattr(self, name)} must not be negative")

    def steps_per_epoch(self, photographs: int) -> int:
        """Steps of one pass over this many photographs; the last may have a smaller batch."""
        return -(-photographs // self.batch_size)

    def total_steps(self, photographs: int) -> int:
        """Steps of the whole training."""
        return self.steps or self.epochs * self.steps_per_epoch(photographs)


class TrainingStage(Stage):
    """A stage that trains a `System` and leaves ``model.safetensors``."""

    @abstractmethod
    def training(self) -> TrainingSettings:
        """Its training settings."""

    @abstractmethod
    def system(self, env: Environment) -> System:
        """The system before its first step; new layers are drawn from torch's generator, which the loop seeds."""

    @abstractmethod
    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        """Returns the function of (sample, epoch) that gives one training example.

        Several threads call it at a time: what is random in it must not come from a global state.
        """

    @abstractmethod
    def save(self, system: System, env: Environment, path: Path) -> None:
        """Writes the trained networks to a model file."""

    def after_epoch(self, system: System, env: Environment, epoch: int) -> None:
        """Called after every epoch, and after the last step, to keep what shows how the training went.

        A training that was killed may call it again for an epoch: what it writes must come out the same.
        """

    def model_path(self, env: Environment) -> Path:
        """The model file."""
        return self.folder(env) / MODEL_FILE

    def produce(self, env: Environment) -> None:
        if not self.model_path(env).is_file():
            seed_torch(env.runtime.seed, self.name, "initial")
            system = fit(
                self.system(env),
                self.samples(env),
                self.open(env),
                self.training(),
                env,
                folder=self.folder(env),
                title=self.name,
                after_epoch=lambda system, epoch: self.after_epoch(system, env, epoch),
            )
            with atomic_path(self.model_path(env)) as aside:
                self.save(system, env, aside)
        # Also where a run was killed between the two: the checkpoint is no part of the artifact.
        (self.folder(env) / "checkpoint.pt").unlink(missing_ok=True)

    def estimate(self, env: Environment) -> Estimate:
        """Times two steps on made-up tensors shaped like the stage's own examples, and the making of a real one.

        Making examples counts where steps wait for it, which is without worker processes, and can be timed only once
        all inputs are there.
        """
        settings, samples = self.training(), self.samples(env)
        steps = settings.total_steps(len(samples))
        seconds = steps * time_step(self.system_to_time(env), self.example(env), settings, env.runtime)
        if not env.runtime.workers and all(stage.complete(env) for stage in self.inputs.values()):
            seconds += steps * settings.batch_size * time_example(self.open(env), samples[0], env.runtime)
        return Estimate(seconds, 60e6)

    def system_to_time(self, env: Environment) -> System:
        """A system that takes as long as `system`, made without the inputs, which need not be there yet."""
        return self.system(env)

    @abstractmethod
    def example(self, env: Environment) -> dict[str, Tensor]:
        """A made-up training example with the shapes of a real one, to time a step with."""


class _Examples(Dataset[dict[str, Any]]):
    """Training examples by (position in the list, epoch)."""

    def __init__(
        self,
        samples: tuple[Sample, ...],
        load: Callable[[Sample, int], dict[str, Any]],
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self._samples, self._load, self._pool = samples, load, pool

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any]]:
        """A whole batch, which a DataLoader asks for by this name."""
        return list(map(self.__getitem__, keys) if self._pool is None else self._pool.map(self.__getitem__, keys))

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, epoch = key
        try:
            return {"id": self._samples[index].id, **self._load(self._samples[index], epoch)}
        except Tag2MaskError as error:
            # Raised in a worker it would come out wrapped in the worker's trace.
            return {"error": error}


def _collate(examples: list[dict[str, Any]]) -> Batch:
    for example in examples:
        if "error" in example:
            return example
    batch: Batch = default_collate(examples)
    return batch


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: a permutation drawn from (seed, epoch), cut up. The last batch may be smaller."""
    order = generator(seed, "order", epoch).permutation(count).tolist()
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def batch_keys(count: int, settings: TrainingSettings, seed: int, done: int = 0) -> Iterator[list[tuple[int, int]]]:
    """Of each step from `done` on, (position in the list, epoch) of its examples.

    Batches are cut up an epoch at a time: those of a whole training on COCO would take hundreds of megabytes.
    """
    per_epoch, steps = settings.steps_per_epoch(count), settings.total_steps(count)
    for epoch in range(done // per_epoch, -(-steps // per_epoch)):
        first = epoch * per_epoch
        for batch in epoch_batches(count, settings.batch_size, seed, epoch)[max(done - first, 0) : steps - first]:
            yield [(index, epoch) for index in batch]


def make_optimizers(system: System, settings: TrainingSettings) -> dict[str, Optimizer]:
    """One optimiser per owner of parameters; the base rate of each group is kept as ``base_lr``."""
    optimizers: dict[str, Optimizer] = {}
    for owner, groups in system.parameter_groups().items():
        described = [
            {"params": group.parameters, "base_lr": settings.learning_rate * group.multiplier}
            for group in groups
            if group.parameters
        ]
        if settings.optimizer == "sgd":
            optimizers[owner] = torch.optim.SGD(
                described, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
            )
        else:
            kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
            optimizers[owner] = kind(described, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return optimizers


def make_fabric(runtime: Runtime) -> Fabric:
    """Lightning Fabric for the device and precision in the settings."""
    device = runtime.torch_device
    devices: list[int] | int = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=devices, precision=runtime.precision)  # type: ignore[arg-type]


class Trainer:
    """A system in training: on its device, with its optimisers.

    Args:
        system: what to train; changed in place, and left in training mode.
        settings: optimisers.
        runtime: device, precision and layout; resolved.
    """

    def __init__(self, system: System, settings: TrainingSettings, runtime: Runtime) -> None:
        self._settings, self._runtime = settings, runtime
        self._fabric = make_fabric(runtime)
        runtime.place(system).train()
        self.optimizers = make_optimizers(system, settings)
        self._model, *self._stepped = self._fabric.setup(system, *self.optimizers.values())

    def step(self, batch: Batch, position: Position, rate: float) -> Losses:
        """One step on a batch, at `rate` times the base rates; what is random in it comes from (seed, step).

        Returns:
            the losses before the step.
        """
        seed_torch(position.seed, "step", position.step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * rate
        losses: Losses = self._model(_channels_last(self._fabric.to_device(batch), self._runtime), position)
        for stepped in self._stepped:
            stepped.zero_grad()
        self._fabric.backward(total_loss(losses))
        for stepped in self._stepped:
            if self._settings.gradient_clip:
                self._fabric.clip_gradients(self._model, stepped, max_norm=self._settings.gradient_clip)
            stepped.step()
        return losses


def fit(
    system: System,
    samples: tuple[Sample, ...],
    load: Callable[[Sample, int], dict[str, Any]],
    settings: TrainingSettings,
    env: Environment,
    *,
    folder: Path,
    title: str,
    after_epoch: Callable[[System, int], None] = lambda system, epoch: None,
) -> System:
    """Trains a system, going on from ``checkpoint.pt`` in the folder if there is one.

    Everything random in a step comes from (seed, step) and (seed, epoch, image id), so a training that was killed and
    started again does exactly what it would have done.

    Args:
        system: what to train; changed in place.
        samples: the training images.
        load: training example of (sample, epoch).
        settings: optimiser, schedule and length.
        env: machine settings and whom to tell.
        folder: where checkpoint and logs go.
        title: name shown with the progress.
        after_epoch: called with the system and the epoch's number after every epoch and after the last step.

    Returns:
        the system, trained, on the device.
    """
    runtime = env.runtime
    runtime.apply()
    trainer = Trainer(system, settings, runtime)
    per_epoch = settings.steps_per_epoch(len(samples))
    steps = settings.total_steps(len(samples))
    checkpoint = folder / "checkpoint.pt"
    done = _load_checkpoint(checkpoint, system, trainer.optimizers, runtime) if checkpoint.exists() else 0
    saved = time.monotonic()
    log = TrainingLog(folder, done)
    with env.reporter.task(title, steps, done) as task:
        meter = Meter()
        for step, batch in training_batches(samples, load, settings, runtime, done):
            meter.waited()
            factor = rate_factor(settings.schedule, step, steps, per_epoch)
            losses = trainer.step(batch, Position(step, steps, step // per_epoch, runtime.seed), factor)
            meter.worked(losses, len(batch["id"]))
            task.advance(meter.note())
            end_of_epoch = (step + 1) % per_epoch == 0 or step + 1 == steps
            if end_of_epoch:
                log.write(step + 1, learning_rate=settings.learning_rate * factor, **meter.summary())
                after_epoch(system, step // per_epoch)
                meter = Meter()
            if end_of_epoch or time.monotonic() - saved >= settings.checkpoint_seconds:
                _save_checkpoint(checkpoint, system, trainer.optimizers, step + 1)
                saved = time.monotonic()
                meter.restart()
    return system.eval()


def time_step(system: System, example: dict[str, Tensor], settings: TrainingSettings, runtime: Runtime) -> float:
    """Seconds of one training step on a batch of copies of an example, as `Trainer` makes it: the faster of two.

    The rate is 0, so that the second step starts where the first did, however large the rate in the settings.
    """
    runtime.apply()
    trainer = Trainer(system, settings, runtime)
    tensors = {name: torch.stack([value] * settings.batch_size) for name, value in example.items()}
    batch: Batch = {"id": ["example"] * settings.batch_size, **tensors}
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        trainer.step(batch, Position(0, 1, 0, runtime.seed), rate=0.0)
        runtime.wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def time_example(load: Callable[[Sample, int], dict[str, Any]], sample: Sample, runtime: Runtime) -> float:
    """Seconds that a training example takes of a step's time: the faster of two, shared among the threads."""

    def once() -> float:
        start = time.perf_counter()
        load(sample, 0)
        return time.perf_counter() - start

    with one_thread_each(1) as alone:
        seconds = min(alone.submit(once).result() for _ in range(2))
    return seconds / min(runtime.threads, cpu_count())


def training_batches(
    samples: tuple[Sample, ...],
    load: Callable[[Sample, int], dict[str, Any]],
    settings: TrainingSettings,
    runtime: Runtime,
    done: int = 0,
) -> Iterator[tuple[int, Batch]]:
    """Steps and batches from step `done` on.

    Without worker processes the examples of a batch are made by all threads at once, in between two steps: the
    processors are all at work on the step itself, and its threads would only wait for one that loads beside them.
    """
    with contextlib.ExitStack() as stack:
        pool = None if runtime.workers else stack.enter_context(one_thread_each(runtime.threads))
        loader = DataLoader(
            _Examples(samples, load, pool),
            batch_sampler=batch_keys(len(samples), settings, runtime.seed, done),
            num_workers=runtime.workers,
            # Examples are closures, which other start methods (the default of macOS) cannot hand over.
            multiprocessing_context="fork" if runtime.workers else None,
            collate_fn=_collate,
            pin_memory=runtime.torch_device.type == "cuda",
        )
        for step, batch in enumerate(loader, start=done):
            if "error" in batch:
                raise batch["error"]
            yield step, batch


def _channels_last(batch: Batch, runtime: Runtime) -> Batch:
    if not runtime.channels_last:
        return batch
    return {
        name: value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, Tensor) and value.ndim == 4
        else value
        for name, value in batch.items()
    }


def _save_checkpoint(path: Path, system: System, optimizers: dict[str, Optimizer], step: int) -> None:
    state = {
        "step": step,
        "system": system.state_dict(),
        "optimizers": {owner: optimizer.state_dict() for owner, optimizer in optimizers.items()},
    }
    with atomic_path(path) as aside:
        torch.save(state, aside)


def _load_checkpoint(path: Path, system: System, optimizers: dict[str, Optimizer], runtime: Runtime) -> int:
    try:
        state = torch.load(path, map_location=runtime.torch_device, weights_only=True)
        system.load_state_dict(state["system"])
        for owner, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][owner])
        return int(state["step"])
    except Exception as error:
        raise WorkspaceError(f"{path}: this checkpoint cannot be read ({error}); delete it to train afresh") from error


class Meter:
    """Means of the losses since the last epoch's end, images per second and the share of time spent on data."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._waiting = self._working = 0.0
        self._mark = time.monotonic()

    def restart(self) -> None:
        """Leaves the time since the last call out (a checkpoint was written)."""
        self._mark = time.monotonic()

    def waited(self) -> None:
        now = time.monotonic()
        self._waiting += now - self._mark
        self._mark = now

    def worked(self, losses: Any, images: int) -> None:
        for name, (loss, count) in losses.items():
            mean = (loss / count.clamp(min=1)).detach().float()
            self._sums[name] = self._sums.get(name, torch.zeros_like(mean)) + mean
        self._steps += 1
        self._images += images
        now = time.monotonic()
        self._working += now - self._mark
        self._mark = now

    def note(self) -> str:
        # Reading a value from a GPU waits for it: now and then is enough.
        if self._steps % 10 != 1:
            return ""
        return ", ".join(f"{name} {float(value) / self._steps:.4f}" for name, value in self._sums.items())

    def summary(self) -> dict[str, float]:
        seconds = max(self._waiting + self._working, 1e-9)
        return {
            **{name: float(value) / self._steps for name, value in self._sums.items()},
            "images_per_second": self._images / seconds,
            "waiting_share": self._waiting / seconds,
        }
