"""Seeds of SSDD's static part: two masks of an image made one by what DD-Net says of their differences."""

from collections.abc import Callable

import torch

from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Estimate
from tag2mask.stages.difference.difference_maps import DifferenceMaps
from tag2mask.stages.difference.difference_settings import PairSettings
from tag2mask.stages.labels import LabelStage, encode_labels


class DifferenceSeeds(LabelStage):
    """m_ssdd0 = SSDD(e(x), before, after): of every pixel the mask that is to be trusted, at the image's size.

    Of changes between the two masks those that can be predicted from the mask before are taken (Shimoda & Yanai, SSDD,
    ICCV 2019, eq. 2 and 3). Lost classes are counted on the whole image.

    Args:
        maps: d of both masks.
        settings: biases and class terms.
    """

    name = "difference_seeds"
    reads = frozenset({"tags"})
    settings: PairSettings

    def __init__(self, maps: DifferenceMaps, settings: PairSettings) -> None:
        self.maps, self.before, self.after = maps, maps.nets.before, maps.nets.after
        super().__init__(settings, maps.split, maps=maps, before=self.before, after=self.after)

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            before, after = (torch.from_numpy(stage.load(env, sample.id))[None] for stage in (self.before, self.after))
            d = self.maps.at_size(env, sample.id, (before.shape[1], before.shape[2]))
            tags = torch.from_numpy(env.dataset.tag_vector(sample)).bool()
            present = torch.cat([torch.ones(1, dtype=torch.bool), tags])[None]
            refined = self.settings.refine(before, after, d[:1], d[1:], present)
            return encode_labels(sample, refined[0].numpy())

        return make

    def estimate(self, env: Environment) -> Estimate:
        count = len(self.samples(env))
        return Estimate(0.02 * count / env.runtime.threads, 3e3 * count)
