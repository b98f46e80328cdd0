"""Time that a network takes on this machine, measured for `--dry_run`."""

import dataclasses
import time

import torch

from tag2mask.base.processors import cpu_count
from tag2mask.data.images import image_size
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import one_thread_each
from tag2mask.networks.inference import ScaleSettings, image_scales
from tag2mask.stages.backbone import BackboneSettings


def seconds_per_image(
    settings: BackboneSettings, scales: ScaleSettings, env: Environment, *, output_stride: int
) -> float:
    """Seconds per image of a backbone at all scales, timed on an empty picture of a typical size.

    On a CPU an image is computed by one thread and every thread has one, so that of one thread's time each image takes
    a share. Random weights serve as well as pretrained ones here and need no file.
    """
    env.runtime.apply()
    device = env.runtime.torch_device
    random = dataclasses.replace(settings, output_stride=output_stride, weights="none")
    backbone = env.runtime.place(random.create(env.runtime.seed)).eval()
    height, width = image_size(env.dataset.train.samples[0].image)
    photograph = torch.zeros(3, height, width, dtype=torch.uint8)

    @torch.no_grad()
    def once() -> float:
        start = time.perf_counter()
        for batch in image_scales(photograph, backbone, scales, device):
            with env.runtime.autocast():
                backbone(batch)
        env.runtime.wait()
        return time.perf_counter() - start

    with one_thread_each(1) as alone:
        seconds = min(alone.submit(once).result() for _ in range(2))
    return seconds / min(env.runtime.threads, cpu_count()) if device.type == "cpu" else seconds
