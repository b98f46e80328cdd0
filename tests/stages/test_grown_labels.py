import dataclasses

import numpy as np

from tag2mask.data.classes import BACKGROUND, UNLABELLED
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.grown_labels import grown_labels
from tag2mask.stages.growth import OnlineCRFSettings, RegionGrowingSettings, region_growing
from tag2mask.stages.sparse_seeds import CueSettings, cue_seeds
from tag2mask.stages.train_segmenter import train_segmenter
from tests.stages.conftest import Finished


def test_seeds_stay_and_everything_sure_is_added(finished: Finished) -> None:
    """With thresholds of 0 every pixel is sure of some class, so whatever touches a seed of its class is labelled."""
    env = finished.env
    seeds = cue_seeds(finished.stage(MakeActivationMaps), CueSettings(0.7, "cam", background_below=0.1), None)
    seeds.run(env)
    growing = RegionGrowingSettings(background_threshold=0.0, foreground_threshold=0.0, grow_on="softmax")
    supervision = region_growing(growing, OnlineCRFSettings(), needs_crf=False)
    settings = dataclasses.replace(finished.settings.segmenter, loss="balanced_seed", label_stride=1)
    segmenter = train_segmenter(seeds, settings, supervision=supervision)
    segmenter.run(env)
    stage = grown_labels(segmenter)
    assert stage.estimate(env).seconds > 0
    stage.run(env)
    more = 0
    for sample in stage.samples(env):
        before, after = seeds.load(env, sample.id), stage.load(env, sample.id)
        assert before.shape == after.shape
        labelled = before != UNLABELLED
        # The grid is finer than the photograph, so that all but the border's rounding comes back as it was.
        assert (after[labelled] == before[labelled]).mean() > 0.97
        assert set(np.unique(after)) <= {BACKGROUND, UNLABELLED, *sample.tags}
        more += int((after != UNLABELLED).sum()) - int(labelled.sum())
    assert more > 0
