import numpy as np
import pytest
import torch

from tag2mask.base.settings import canonical
from tag2mask.data.images import read_image
from tag2mask.errors import SettingsError
from tag2mask.evidence.cam import background_power
from tag2mask.stages.affinity.labels import MapCRFSettings, PowerSettings, power_labels, refined_map_labels
from tag2mask.stages.crf import CRFSettings
from tests.stages.conftest import FinishedMasks


def test_cam_labels_are_cams_above_their_background(finished_masks: FinishedMasks) -> None:
    env, made = finished_masks.env, finished_masks.made
    kinds = set()
    for sample in env.dataset.train:
        maps = made.cams.load(env, sample.id).at_size()
        background = background_power(maps, 1.0)
        found = made.cam_labels.load(env, sample.id)
        assert found.shape == read_image(sample.image).shape[:2]
        expected = np.zeros(found.shape, np.uint8)
        for tag, map_ in zip(sample.tags, maps, strict=True):
            expected[((map_ > background) & (map_ == maps.amax(0))).numpy()] = tag
        assert np.array_equal(found, expected)
        kinds |= set(np.unique(found))
    assert kinds == {0, 1, 2}


def test_walked_labels_are_the_largest_scores(finished_masks: FinishedMasks) -> None:
    env, made = finished_masks.env, finished_masks.made
    for sample in env.dataset.train:
        ids = np.array([0, *sample.tags])
        scores = made.walked.load(env, sample.id).at_size().numpy()
        assert np.array_equal(made.walked_labels.load(env, sample.id), ids[scores.argmax(0)])


def test_crf_labels_are_the_largest_after_the_crf(finished_masks: FinishedMasks) -> None:
    env, made = finished_masks.env, finished_masks.made
    changed = False
    for sample in env.dataset.train:
        ids = np.array([0, *sample.tags])
        scores = made.walked.load(env, sample.id).at_size().numpy()
        refined = finished_masks.settings.crf.apply(read_image(sample.image), scores)
        found = made.crf_labels.load(env, sample.id)
        assert np.array_equal(found, ids[refined.argmax(0)])
        changed |= not np.array_equal(found, made.walked_labels.load(env, sample.id))
    assert changed


def test_contrast_raises_scores_to_a_power_before_the_crf(finished_masks: FinishedMasks) -> None:
    env, made = finished_masks.env, finished_masks.made
    stage = refined_map_labels(made.walked, MapCRFSettings(iterations=2, contrast=3.0))
    assert stage.fingerprint(env) != made.crf_labels.fingerprint(env)
    assert "contrast" not in canonical(made.crf_labels.settings, for_fingerprint=True)
    stage.run(env)
    sample = env.dataset.sample("shape_00")
    cubes = made.walked.load(env, sample.id).at_size().numpy() ** 3
    refined = CRFSettings(iterations=2).apply(read_image(sample.image), cubes / cubes.sum(0))
    assert np.array_equal(stage.load(env, sample.id), np.array([0, *sample.tags])[refined.argmax(0)])
    with pytest.raises(SettingsError, match=r"crf\.contrast: 0"):
        MapCRFSettings(contrast=0)


def test_masks_with_and_without_a_crf_have_names_of_their_own(finished_masks: FinishedMasks) -> None:
    made = finished_masks.made
    assert (made.cam_labels.name, made.walked_labels.name, made.crf_labels.name) == (
        "cam_labels",
        "walked_labels",
        "crf_labels",
    )


def test_a_larger_alpha_leaves_less_background(finished_masks: FinishedMasks) -> None:
    env, cams = finished_masks.env, finished_masks.made.cams
    sample = env.dataset.sample("shape_00")
    maps = cams.load(env, sample.id).at_size()
    shares = [float((background_power(maps, alpha) >= maps.amax(0)).float().mean()) for alpha in (0.5, 4.0)]
    assert shares[0] > shares[1]
    assert torch.isfinite(torch.tensor(shares)).all()
    assert power_labels(cams, 4.0).settings == PowerSettings(4.0)


def test_an_alpha_of_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match="alpha"):
        PowerSettings(0.0)
