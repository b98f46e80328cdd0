"""Training steps of the presets small/cam and small/supervised: a batch read, then forward, backward and optimiser.

The classifier's steps (16 photographs, views of 320 pixels) and the segmenter's (8, on features of frozen blocks, of
photographs of 448 pixels) as the training loop takes them, on pretrained weights. The other rows take one choice back
each. Photographs per second and the share of time spent waiting for the batch are of all timed steps; the loss is the
first step's.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torchvision.transforms import v2

from bench.harness import PHOTOGRAPHS, Contender, Row, Setting, side_by_side
from tag2mask.data.demo import write_demo_data
from tag2mask.data.samples import Split
from tag2mask.engine.environment import Environment, Runtime
from tag2mask.engine.graph import distinct
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.engine.system import Position, total_loss
from tag2mask.engine.training import Meter, Trainer, TrainingStage, training_batches
from tag2mask.methods.registry import METHODS
from tag2mask.networks import feature_blocks
from tag2mask.runs.prepare import prepare
from tag2mask.runs.settings import as_arguments, parse_arguments
from tag2mask.stages import train_classifier
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.train_segmenter import TrainSegmenter

TITLE = "Training steps"
PACKAGES = ("torch", "torchvision", "timm", "lightning-fabric", "pillow")
COUNT = 48

Patch = Callable[[], contextlib.AbstractContextManager[Any]]


def prepared(method: str, threads: int, folder: Path, **changes: Any) -> tuple[Environment, Plan]:
    """The small preset of a method on some photographs, with a workspace in a folder; changes by dotted key."""
    data = PHOTOGRAPHS
    if not data.is_dir():
        data = write_demo_data(folder / "demo", train=COUNT, val=8)
    places = {"data": data, "workspace": folder / "workspace", "device": "cpu", "threads": threads, "workers": 0}
    configuration = parse_arguments(
        METHODS[method], ["--config", f"small/{method}", *as_arguments({**places, **changes})]
    )
    env, plan = prepare(configuration, Reporter(quiet=True))
    samples = env.dataset.train.samples
    chosen = Split("train", samples[:: max(1, len(samples) // COUNT)][:COUNT])
    return Environment(dataclasses.replace(env.dataset, train=chosen), env.workspace, env.runtime), plan


def apart_norms() -> contextlib.AbstractContextManager[Any]:
    """Networks built inside keep their batch norms as layers of their own."""
    return mock.patch.object(feature_blocks, "fold_batch_norms")


def tensor_colours() -> contextlib.AbstractContextManager[Any]:
    """Colours are changed as torchvision does it on tensors, by draws of its own."""

    def jitter(image: Tensor, strength: float, **_: Any) -> Tensor:
        changed: Tensor = v2.ColorJitter(strength, strength, strength, strength / 4)(image)
        return changed

    return mock.patch.object(train_classifier, "change_colours", jitter)


class Training:
    """A training stage at work, one step per call.

    Args:
        stage: whose system, examples and settings they are; what it reads of other stages is there.
        env: the photographs.
        runtime: layout of the network, and who reads.
        patch: what is otherwise for this training.
        parts: dotted names of modules of the system whose share of the time is told too, by what they are called.
    """

    def __init__(
        self,
        stage: TrainingStage,
        env: Environment,
        runtime: Runtime,
        patch: Patch = contextlib.nullcontext,
        parts: Mapping[str, str] | None = None,
    ) -> None:
        settings = dataclasses.replace(stage.training(), epochs=1000, steps=0)
        self._patch = patch
        self._meter = Meter()
        self._images = 0
        self._parts = dict(parts or {})
        self._seconds = {"forward": 0.0, "optimiser": 0.0, **dict.fromkeys(self._parts, 0.0)}
        self._marks: dict[str, float] = {}
        torch.manual_seed(0)
        with patch():
            system = stage.system(env)
            self._trainer = Trainer(system, settings, runtime)
            self._batches = training_batches(stage.samples(env), stage.open(env), settings, runtime)
        modules = {part: system.get_submodule(name) for part, name in self._parts.items()}
        for part, module in {"forward": system, **modules}.items():
            module.register_forward_pre_hook(partial(self._begin, part))
            module.register_forward_hook(partial(self._end, part))
        for optimizer in self._trainer.optimizers.values():
            optimizer.register_step_pre_hook(partial(self._begin, "optimiser"))
            optimizer.register_step_post_hook(partial(self._end, "optimiser"))

    def _begin(self, part: str, *_: Any) -> None:
        self._marks[part] = time.perf_counter()

    def _end(self, part: str, *_: Any) -> None:
        self._seconds[part] += time.perf_counter() - self._marks[part]

    def __call__(self) -> float:
        """Takes a step and returns its loss."""
        with self._patch():
            self._meter.restart()
            step, batch = next(self._batches)
            self._meter.waited()
            losses = self._trainer.step(batch, Position(step, step + 1, 0, 0), 1.0)
            self._meter.worked(losses, len(batch["id"]))
        self._images += len(batch["id"])
        if not step:  # the first step warms up; it is not among the timed ones
            self._meter, self._images, self._seconds = Meter(), 0, dict.fromkeys(self._seconds, 0.0)
        return float(total_loss(losses).detach())

    def close(self) -> None:
        """Ends the threads or the process that read."""
        self._batches.close()

    def told(self, _: float, first_loss: float) -> str:
        """Speed, shares of the time and the first step's loss."""
        figures = self._meter.summary()
        seconds = self._images / figures["images_per_second"]
        shares = {"waiting": figures["waiting_share"]}
        spent = {part: value / seconds for part, value in self._seconds.items()}
        shares |= {part: share for part, share in spent.items() if part not in self._parts}
        shares["backward"] = 1 - sum(shares.values())
        listed = ", ".join(f"{part} {share:.1%}" for part, share in shares.items())
        if self._parts:
            # Modules called in the forward pass: they are in its share.
            listed += f" (in forward {', '.join(f'{part} {spent[part]:.2%}' for part in self._parts)})"
        return f"{figures['images_per_second']:.1f} images/s; {listed}; loss {first_loss:.5f}"


def trainings(stage: TrainingStage, env: Environment) -> Iterator[tuple[str, Training]]:
    """The trainings to compare, the product's own first."""
    runtime, change, plain = env.runtime, dataclasses.replace, contextlib.nullcontext
    yield "tag2mask", Training(stage, env, runtime, plain)
    yield "batch norm apart", Training(stage, env, runtime, apart_norms)
    yield "channels first", Training(stage, env, change(runtime, channels_last=False), plain)
    if stage.name == "classifier":
        yield "colours changed on tensors", Training(stage, env, runtime, tensor_colours)
    if runtime.threads > 1:
        yield "one thread reads", Training(stage, env, change(runtime, threads=1), plain)
        yield "one process reads beside", Training(stage, env, change(runtime, workers=1), plain)


def rows(setting: Setting) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        env, plan = prepared("cam", setting.threads, Path(name))
        (classifier,) = (stage for stage in distinct(plan.stages(), env) if isinstance(stage, TrainClassifier))
        _, plan = prepared("supervised", setting.threads, Path(name))
        segmenter = plan.model
        assert isinstance(segmenter, TrainSegmenter)
        for stage in segmenter.inputs.values():
            stage.run(env)
        for case, trained in (("classifier", classifier), ("segmenter", segmenter)):
            compared = dict(trainings(trained, env))
            contenders = [Contender(variant, training, training.told) for variant, training in compared.items()]
            step = f"{case}, a step of {trained.training().batch_size}"
            yield from side_by_side(step, contenders[0], contenders[1:], setting)
            for training in compared.values():
                training.close()
