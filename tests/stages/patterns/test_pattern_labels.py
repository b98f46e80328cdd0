import numpy as np
import pytest
import torch

from tag2mask.data.images import read_image
from tag2mask.errors import SettingsError
from tag2mask.refine.dense_crf import dense_crf
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.patterns.pattern_labels import (
    PatternLabels,
    PatternRefinementSettings,
    RefinedPatternLabels,
    pattern_labels,
    refined_pattern_labels,
)
from tests.stages.conftest import Finished, run_with_inputs
from tests.stages.patterns.test_pattern_maps import maps_at

CRF = CRFSettings(iterations=2)


def labels_at(finished: Finished) -> PatternLabels:
    stage = pattern_labels(maps_at(finished))
    run_with_inputs(stage, finished.env)
    return stage


def refined_at(finished: Finished, settings: PatternRefinementSettings) -> RefinedPatternLabels:
    stage = refined_pattern_labels(labels_at(finished), settings)
    run_with_inputs(stage, finished.env)
    return stage


def test_masks_follow_algorithm_1_on_upsampled_maps(finished: Finished) -> None:
    env, stage = finished.env, labels_at(finished)
    kinds = set()
    for sample in stage.samples(env):
        found = stage.load(env, sample.id)
        positive = stage.maps.load(env, sample.id).at_size().numpy() > 0
        expected = np.zeros(found.shape, np.uint8)
        for y, x in np.ndindex(expected.shape):
            claims = [tag for tag, map_ in zip(sample.tags, positive, strict=True) if map_[y, x]]
            expected[y, x] = 0 if not claims else claims[0] if len(claims) == 1 else 255
        assert np.array_equal(found, expected)
        kinds |= set(np.unique(found).tolist())
    assert kinds == {0, 1, 2, 255}


@pytest.mark.parametrize("unary", ["labels", "scores"])
def test_the_crf_serves_photographs_with_a_single_tag_alone(finished: Finished, unary: str) -> None:
    env = finished.env
    stage = refined_at(finished, PatternRefinementSettings(unary, 0.8, CRF))
    changed = 0
    for sample in stage.samples(env):
        before, after = stage.labels.load(env, sample.id), stage.load(env, sample.id)
        if len(sample.tags) != 1:
            assert np.array_equal(before, after)
            continue
        (tag,) = sample.tags
        foreground = before == tag
        if unary == "labels":
            chance = np.where(foreground, 0.8, 0.2).astype(np.float32)
        else:
            chance = torch.sigmoid(stage.labels.maps.load(env, sample.id).at_size())[0].numpy()
        refined = dense_crf(read_image(sample.image), np.stack([1 - chance, chance]), **CRF.kernels(before.shape))
        assert np.array_equal(after, np.where(refined[1] > refined[0], tag, 0))
        changed += int((before != after).sum())
    assert changed


def test_cost_is_estimated(finished: Finished) -> None:
    assert labels_at(finished).estimate(finished.env).seconds > 0
    assert refined_at(finished, PatternRefinementSettings(crf=CRF)).estimate(finished.env).seconds > 0


def test_impossible_settings_are_told() -> None:
    with pytest.raises(SettingsError, match="labels, scores"):
        PatternRefinementSettings(unary="power")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"refinement\.confidence"):
        PatternRefinementSettings(confidence=1.0)
