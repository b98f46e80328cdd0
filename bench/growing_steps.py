"""Training steps whose labels grow, beside the same steps on seeds that stay: small/dsrg and small/superpixel.

A step is a batch of 8 photographs on features of frozen blocks, read, then forward, backward and optimiser, on a grid
of 56 x 56. The CRF of the softmax and the growing itself are timed inside the forward pass; both are done for the whole
batch at once. Seeds come from a classifier trained for one epoch.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Contender, Row, Setting, side_by_side
from bench.training import Training, prepared
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Stage
from tag2mask.stages.train_segmenter import TrainSegmenter

TITLE = "Training steps whose labels grow"
PACKAGES = ("torch", "timm", "lightning-fabric")
QUICK = {"classifier.training.epochs": 1, "seeds.foreground_threshold": 0.5}
DSRG = {"retrain.enabled": False}


def make(stage: Stage, env: Environment) -> None:
    """Makes an artifact and whatever it needs."""
    for needed in stage.inputs.values():
        make(needed, env)
    if not stage.complete(env):
        stage.run(env)


def stage_of(
    method: str, setting: Setting, folder: Path, parts: dict[str, str], **changes: object
) -> tuple[TrainSegmenter, Environment, Training]:
    """A method's segmenter with all it reads made, at work."""
    env, plan = prepared(method, setting.threads, folder, **{**QUICK, **changes})
    segmenter = plan.model
    assert isinstance(segmenter, TrainSegmenter)
    for needed in segmenter.inputs.values():
        make(needed, env)
    return segmenter, env, Training(segmenter, env, env.runtime, parts=parts)


def rows(setting: Setting) -> Iterator[Row]:
    grown = {"growing": "supervision.growing"}
    crf = {"CRF": "supervision.crf"}
    cases = {
        "dsrg": (
            {**crf, **grown},
            DSRG,
            {
                "without growing": (crf, {"growing.enabled": False}),
                "seed loss alone": ({}, {"growing.enabled": False, "boundary": False}),
            },
        ),
        "superpixel": (grown, {}, {"without growing": ({}, {"growing.enabled": False})}),
    }
    with tempfile.TemporaryDirectory() as name:
        for method, (parts, changes, others) in cases.items():
            segmenter, _, ours = stage_of(method, setting, Path(name), parts, **changes)
            peers = {
                title: stage_of(method, setting, Path(name), its_parts, **{**changes, **its_changes})[2]
                for title, (its_parts, its_changes) in others.items()
            }
            step = f"{method}, a step of {segmenter.training().batch_size}"
            contenders = [Contender(title, training, training.told) for title, training in peers.items()]
            yield from side_by_side(step, Contender("tag2mask", ours, ours.told), contenders, setting)
            for training in (ours, *peers.values()):
                training.close()
