"""Stages that run a network on every photograph, as the preset small/cam has them: from the photograph to the file.

The stages are `cams` (four scales and mirror images), `frozen_features` and `predictions` (mirror image, CRF of 21
classes); a row's first figure on the right is photographs per second. The other rows take back one choice each, the
last one both. Shares are of one thread's time, measured apart. Backbones are pretrained, heads untrained.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from bench.harness import Contender, Row, Setting, side_by_side
from bench.training import apart_norms, prepared
from tag2mask.base.files import atomic_path
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import distinct
from tag2mask.engine.stage import PerImageStage, map_threads
from tag2mask.engine.training import TrainingStage
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.feature_blocks import ChainBackbone
from tag2mask.networks.segmenter import Segmenter
from tag2mask.stages import activation_maps, frozen_features, predict
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.train_segmenter import TrainSegmenter

TITLE = "Inference by stage"
PACKAGES = ("torch", "timm", "pillow", "numpy")
PHOTOS = 4

Make = Callable[[Sample], bytes]

PARTS: dict[str, list[tuple[Any, str]]] = {
    "reading": [
        (activation_maps, "load_image"),
        (frozen_features, "load_image"),
        (predict, "load_image"),
    ],
    "network": [(Classifier, "score_maps"), (Segmenter, "forward"), (ChainBackbone, "encode")],
    "CRF": [(CRFSettings, "apply")],
    "file": [(np, "savez_compressed"), (frozen_features, "save_tensors"), (predict, "encode_mask")],
}
"""Functions whose time the shares tell."""


def untrained(stage: TrainingStage, env: Environment) -> None:
    """Leaves a model file as the training would, after no step."""
    torch.manual_seed(0)
    with atomic_path(stage.model_path(env)) as aside:
        stage.save(stage.system(env), env, aside)


def shares(make: Make, samples: list[Sample]) -> str:
    """Where one thread's time goes."""
    seconds = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[part] += time.perf_counter() - start

        return call

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                stack.enter_context(mock.patch.object(owner, name, timed(part, getattr(owner, name))))
        start = time.perf_counter()
        for sample in samples:
            make(sample)
        whole = time.perf_counter() - start
    torch.set_num_threads(threads)
    listed = [f"{part} {value / whole:.1%}" for part, value in seconds.items() if value]
    return ", ".join([*listed, f"rest {1 - sum(seconds.values()) / whole:.1%}"])


class Inference:
    """A stage at work on some photographs.

    Args:
        make: the stage's function of one photograph.
        samples: the photographs.
        at_a_time: how many are worked on at a time.
        inside: threads that share one photograph; only with `at_a_time` 1.
    """

    def __init__(self, make: Make, samples: list[Sample], at_a_time: int, inside: int = 1) -> None:
        self._make, self._samples, self._at_a_time, self._inside = make, samples, at_a_time, inside
        self._seconds: list[float] = []

    def __call__(self) -> dict[str, bytes]:
        """Content of the photographs' files."""
        start = time.perf_counter()
        files: dict[str, bytes] = {}

        def note(sample: Sample) -> None:
            files[sample.id] = self._make(sample)

        if self._inside == 1:
            map_threads(note, self._samples, self._at_a_time, lambda _: None)
        else:
            torch.set_num_threads(self._inside)
            for sample in self._samples:
                note(sample)
        self._seconds.append(time.perf_counter() - start)
        return files

    def told(self, ours: dict[str, bytes], theirs: dict[str, bytes]) -> str:
        """Photographs per second; where the time goes, or how many files are the same byte for byte."""
        speed = f"{len(self._samples) / statistics.median(self._seconds):.2f} images/s"
        if ours is theirs:
            return f"{speed}; {shares(self._make, self._samples)}"
        return f"{speed}; {sum(ours[name] == theirs[name] for name in ours)} of {len(ours)} files equal"


def compared(stage: PerImageStage, env: Environment) -> dict[str, Inference]:
    """The ways to compare, the product's own first."""
    samples, threads = list(stage.samples(env))[:PHOTOS], env.runtime.threads
    make = stage.open(env)
    with apart_norms():
        apart = stage.open(env)
    ways = {
        "tag2mask": Inference(make, samples, stage.at_a_time(env)),
        "batch norm apart": Inference(apart, samples, stage.at_a_time(env)),
    }
    if threads > 1:
        ways["all threads in one photograph"] = Inference(make, samples, 1, threads)
        ways["both"] = Inference(apart, samples, 1, threads)
    return ways


def rows(setting: Setting) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        env, plan = prepared("cam", setting.threads, Path(name))
        cams = next(stage for stage in distinct(plan.stages(), env) if isinstance(stage, MakeActivationMaps))
        segmenter = plan.model
        assert isinstance(segmenter, TrainSegmenter)
        assert segmenter.batch.features is not None
        untrained(cams.classifier, env)
        untrained(segmenter, env)
        for stage in (cams, segmenter.batch.features, plan.predictions.on("train")):
            assert isinstance(stage, PerImageStage)
            own, *others = (Contender(way, run, run.told) for way, run in compared(stage, env).items())
            yield from side_by_side(f"{stage.name}, {PHOTOS} photographs", own, others, setting)
