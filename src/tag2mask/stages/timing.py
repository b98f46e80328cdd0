"""How long a network takes on this machine, measured for `--dry-run`."""

import dataclasses
import time

import torch

from tag2mask.data.images import image_size
from tag2mask.engine.environment import Environment
from tag2mask.networks.inference import ScaleSettings, photograph_scales
from tag2mask.stages.backbone import BackboneSettings


@torch.no_grad()
def seconds_per_image(
    settings: BackboneSettings, scales: ScaleSettings, env: Environment, *, output_stride: int
) -> float:
    """Seconds of one photograph through a backbone at all scales, timed on an empty picture of a typical size.

    Random weights serve as well as pretrained ones here and need no file.
    """
    env.runtime.apply()
    device = env.runtime.torch_device
    random = dataclasses.replace(settings, output_stride=output_stride, weights="none")
    backbone = env.runtime.place(random.create(env.runtime.seed)).eval()
    height, width = image_size(env.dataset.train.samples[0].image)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        for batch in photograph_scales(torch.zeros(3, height, width, dtype=torch.uint8), backbone, scales, device):
            with env.runtime.autocast():
                backbone(batch)
        env.runtime.wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
