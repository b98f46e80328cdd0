"""CAMs and their background after a random walk on AffinityNet's affinities."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.data.images import image_size
from tag2mask.data.samples import Sample
from tag2mask.data.view import IMAGE, View, to_view, whole_cells, whole_view
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.errors import SettingsError
from tag2mask.evidence.affinity import pair_affinities
from tag2mask.evidence.cam import with_background_power
from tag2mask.networks.inference import ScaleSettings, normalise
from tag2mask.refine.random_walk import random_walk
from tag2mask.stages.activation_maps import ActivationMaps, MakeActivationMaps
from tag2mask.stages.affinity.train_affinity import TrainAffinity
from tag2mask.stages.class_maps import ClassMapStage, encode_maps, sum_to_one
from tag2mask.stages.timing import seconds_per_image
from tag2mask.stages.views import load_image


@dataclass(frozen=True)
class WalkSettings:
    """Settings of the random walk that spreads CAMs (Ahn & Kwak, CVPR 2018).

    Args:
        alpha: exponent of the background power map (1 - max CAM)^alpha that is walked beside the CAMs.
        beta: affinities are raised to it: large ones forbid steps between pixels that differ a little.
        steps: length of the walk, the paper's 2^8.
        long_side: long side in pixels at which AffinityNet sees the photograph; 0 takes the photograph's own.
    """

    alpha: float = 16.0
    beta: float = 8.0
    steps: int = 256
    long_side: int = 0

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.beta <= 0:
            raise SettingsError(f"walk: alpha and beta must be above 0, not {self.alpha} and {self.beta}")
        if self.steps < 1:
            raise SettingsError(f"walk.steps: {self.steps} must be above 0")
        if self.long_side < 0:
            raise SettingsError(f"walk.long_side: {self.long_side} is negative; 0 takes the photograph's own")


class MakeWalkedMaps(ClassMapStage):
    """p_psa: background and CAMs after the walk, on AffinityNet's grid, divided by their sum."""

    name = "walked_maps"
    version = 2
    on_device = True
    reads = frozenset({"images", "tags"})
    settings: WalkSettings

    def __init__(self, cams: MakeActivationMaps, affinity_net: TrainAffinity, settings: WalkSettings) -> None:
        super().__init__(settings, cams.split, cams=cams, affinity_net=affinity_net)
        self.cams, self.affinity_net = cams, affinity_net

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        network, device = self.affinity_net.load(env), env.runtime.torch_device
        settings, radius = self.settings, self.affinity_net.settings.radius

        @torch.no_grad()
        def affinities(sample: Sample) -> Tensor:
            image = load_image(sample)
            shown = whole_view((image.shape[1], image.shape[2]), long_side=settings.long_side or None)
            height, width = whole_cells(shown.resized, math.lcm(network.grid_stride, network.backbone.stride))
            view = View((height, width), False, (0, 0, height, width))
            batch = normalise(to_view(image, view, IMAGE, fill=0), network.backbone)[None].to(device)
            with env.runtime.autocast():
                features = network(batch)
            return pair_affinities(features, radius)[0]

        def walked(sample: Sample, cams: ActivationMaps) -> Tensor:
            weights = affinities(sample)
            scores = with_background_power(cams.at_size(), settings.alpha)
            start = F.adaptive_avg_pool2d(scores, (weights.shape[1], weights.shape[2])).to(device)
            return random_walk(start, weights, radius=radius, beta=settings.beta, steps=settings.steps)

        def make(sample: Sample) -> bytes:
            cams = self.cams.load(env, sample.id)
            # Background alone is 1 everywhere, wherever it walks.
            maps = sum_to_one(walked(sample, cams)) if cams.class_ids else torch.ones(1, 1, 1)
            return encode_maps((0, *cams.class_ids), cams.size, maps=maps)

        return make

    def estimate(self, env: Environment) -> Estimate:
        settings = self.affinity_net.settings
        long_side = self.settings.long_side or max(image_size(env.dataset.train.samples[0].image))
        scales = ScaleSettings(long_side=long_side, mirror=False)
        seconds = seconds_per_image(settings.network, scales, env, output_stride=settings.backbone.output_stride)
        # Affinities and walk take as long as the smallest backbones do.
        count = len(self.samples(env))
        return Estimate((seconds + 0.05) * count, 8e3 * count)


def walked_maps(cams: MakeActivationMaps, affinity_net: TrainAffinity, settings: WalkSettings) -> MakeWalkedMaps:
    """Background and CAMs of the CAMs' images after the walk."""
    return MakeWalkedMaps(cams, affinity_net, settings)
