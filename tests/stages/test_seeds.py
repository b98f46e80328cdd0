import dataclasses

import numpy as np
import pytest
import torch

from tag2mask.data.images import read_image
from tag2mask.errors import SettingsError
from tag2mask.evidence.cam import cam_labels
from tag2mask.refine.dense_crf import dense_crf
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.seeds import MakeSeeds, RefinementSettings, RefineSeeds, SeedSettings, cam_seeds, refine_seeds
from tests.stages.conftest import Finished

IDS = [f"shape_{index:02d}" for index in range(6)]
KERNELS = {"iterations": 2}


def seeds_at(finished: Finished, foreground: float, background: float) -> MakeSeeds:
    stage = cam_seeds(finished.stage(MakeActivationMaps), SeedSettings(foreground, background))
    if not stage.complete(finished.env):
        stage.run(finished.env)
    return stage


def test_seeds_are_cams_under_thresholds_at_the_photographs_size(finished: Finished) -> None:
    env, stage = finished.env, seeds_at(finished, 0.6, 0.3)
    kinds = set()
    for image_id in IDS:
        cams = finished.stage(MakeActivationMaps).load(env, image_id)
        expected = cam_labels(cams.at_size(), cams.class_ids, foreground_threshold=0.6, background_threshold=0.3)
        found = stage.load(env, image_id)
        assert found.shape == read_image(env.dataset.sample(image_id).image).shape[:2]
        assert np.array_equal(found, expected.numpy())
        kinds |= set(np.unique(found))
    assert kinds == {0, 1, 2, 255}


def probabilities(finished: Finished, seeds: MakeSeeds, image_id: str, settings: RefinementSettings) -> np.ndarray:
    """What the CRF starts from, pixel by pixel from the definition: (1 + tags, H, W)."""
    cams = finished.stage(MakeActivationMaps).load(finished.env, image_id)
    maps, ids = cams.at_size().numpy(), (0, *cams.class_ids)
    labels = seeds.load(finished.env, image_id)
    result = np.empty((len(ids), *labels.shape))
    for y, x in np.ndindex(labels.shape):
        if settings.unary == "labels":
            rest = (1 - settings.confidence) / max(len(ids) - 1, 1)
            known = labels[y, x] != 255 and len(ids) > 1
            result[:, y, x] = (
                [settings.confidence if labels[y, x] == c else rest for c in ids] if known else 1 / len(ids)
            )
        else:
            cell = maps[:, y, x]
            background = seeds.settings.background_threshold
            if settings.unary == "power":
                background = (1 - max(cell, default=0)) ** settings.alpha
            result[:, y, x] = [background, *cell]
            result[:, y, x] /= result[:, y, x].sum()
    return result


@pytest.mark.parametrize("unary", ["labels", "threshold", "power"])
def test_refined_labels_are_the_crfs_from_each_unary(finished: Finished, unary: str) -> None:
    env = finished.env
    seeds = seeds_at(finished, 0.6, 0.3)
    crf = dataclasses.replace(finished.settings.refinement.crf, iterations=2)
    settings = RefinementSettings(unary=unary, confidence=0.8, alpha=3.0, crf=crf)  # type: ignore[arg-type]
    stage = refine_seeds(finished.stage(MakeActivationMaps), seeds, settings)
    stage.run(env)
    for image_id in ("shape_00", "shape_01", "shape_05"):
        sample = env.dataset.sample(image_id)
        start = probabilities(finished, seeds, image_id, settings).astype(np.float32)
        refined = dense_crf(read_image(sample.image), start, **KERNELS)
        expected = np.array([0, *sample.tags])[refined.argmax(0)]
        assert (stage.load(env, image_id) == expected).mean() > 0.999, image_id  # rounding may turn a tie


@pytest.mark.parametrize("kind", [MakeSeeds, RefineSeeds])
def test_labels_are_among_the_tags(finished: Finished, kind: type[MakeSeeds]) -> None:
    stage, found = finished.stage(kind), set()
    for image_id in IDS:
        labels = set(np.unique(stage.load(finished.env, image_id)).tolist())
        assert labels <= {0, 255, *finished.env.dataset.sample(image_id).tags}
        found |= labels
    assert not stage.load(finished.env, "shape_05").any()  # no tag: background only
    assert found >= {0, 1, 2}


def test_masks_are_not_read(finished: Finished) -> None:
    for kind in (MakeSeeds, RefineSeeds):
        assert all(sample.mask is None for sample in finished.stage(kind).samples(finished.env))


def test_estimates(finished: Finished) -> None:
    for kind in (MakeSeeds, RefineSeeds):
        assert finished.stage(kind).estimate(finished.env).seconds > 0


@pytest.mark.parametrize(("foreground", "background"), [(0.2, 0.3), (1.1, 0.2), (0.2, -0.1)])
def test_impossible_thresholds(foreground: float, background: float) -> None:
    with pytest.raises(SettingsError, match="background_threshold <= foreground_threshold"):
        SeedSettings(foreground, background)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"unary": "cams"}, "labels, threshold, power"), ({"confidence": 1.0}, "confidence"), ({"alpha": 0.0}, "alpha")],
)
def test_impossible_refinements(wrong: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RefinementSettings(**wrong)


def test_a_background_threshold_of_zero_divides_by_nothing(finished: Finished) -> None:
    stage = finished.stage(RefineSeeds)
    twin = refine_seeds(stage.cams, cam_seeds(stage.cams, SeedSettings(0.0, 0.0)), RefinementSettings("threshold"))
    cams = dataclasses.replace(stage.cams.load(finished.env, "shape_00"))
    empty = dataclasses.replace(cams, maps=torch.zeros_like(cams.maps))
    assert torch.isfinite(twin._from_scores(empty)).all()
