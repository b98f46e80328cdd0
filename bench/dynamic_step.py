"""Steps of SSDD's dynamic training, small/ssdd, beside those of the same segmenter on its seeds alone.

A step is a batch of 8 photographs on features of frozen blocks, read, then forward, backward and optimisers, on a grid
of 56 x 56. The CRF of the main branch and the two difference networks, forward and backward, are told apart. Seeds are
true masks here: only time is compared.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from bench.growing_steps import make
from bench.harness import Contender, Row, Setting, side_by_side
from bench.training import Training, prepared
from tag2mask.engine.environment import Environment
from tag2mask.stages.difference.train_dynamic import TrainDynamic
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.train_segmenter import TrainSegmenter

TITLE = "Steps of SSDD's dynamic training"
PACKAGES = ("torch", "timm", "lightning-fabric")

_NETS, _BACK = "difference networks", "backward of the difference networks"


class DynamicTraining(Training):
    """A dynamic training at work, its CRF and difference networks watched."""

    def __init__(self, stage: TrainDynamic, env: Environment) -> None:
        torch.manual_seed(0)
        system = stage.system(env)
        with mock.patch.object(stage, "system", return_value=system):
            super().__init__(stage, env, env.runtime, parts={"CRF": "refinement.crf"})
        self._parts[_NETS] = "refinement"
        self._seconds |= {_NETS: 0.0, _BACK: 0.0}
        for net in (system.refinement.difference_crf, system.refinement.difference_seed):
            # What both masks of a pair share is made before the network is called on them.
            for module in (net.head, net):
                module.register_forward_pre_hook(partial(self._begin, _NETS))
                module.register_forward_hook(partial(self._end, _NETS))
            # Its backward pass begins at its output and ends with the gradient of its last parameter: nothing else is
            # in between, as no gradient goes into its features.
            net.register_full_backward_pre_hook(partial(self._begin, _BACK))
            for parameter in net.parameters():
                parameter.register_post_accumulate_grad_hook(self._parameter_done)

    def _parameter_done(self, _: torch.Tensor) -> None:
        self._end(_BACK)
        self._begin(_BACK)


def rows(setting: Setting) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env, plan = prepared("supervised", setting.threads, folder)
        assert isinstance(plan.model, TrainSegmenter)
        seeds = plan.model.labels
        _, plan = prepared("ssdd", setting.threads, folder)
        assert isinstance(plan.model, TrainDynamic)
        settings = plan.model.dynamic
        dynamic, plain = (
            TrainDynamic(seeds, settings),
            TrainSegmenter(seeds, SegmenterSettings.on_whole_masks(settings.segmenter)),
        )
        for stage in (*dynamic.inputs.values(), *plain.inputs.values()):
            make(stage, env)
        ours, alone = DynamicTraining(dynamic, env), Training(plain, env, env.runtime)
        step = f"ssdd, a step of {settings.segmenter.training.batch_size}"
        yield from side_by_side(
            step, Contender("tag2mask", ours, ours.told), [Contender("seeds alone", alone, alone.told)], setting
        )
        for training in (ours, alone):
            training.close()
