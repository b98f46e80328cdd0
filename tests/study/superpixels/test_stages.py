import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.data.classes import UNLABELLED
from tag2mask.data.masks import read_mask
from tag2mask.engine.environment import Environment
from tag2mask.errors import WorkspaceError
from tag2mask.evaluation.superpixels import SuperpixelMeans
from tag2mask.evidence.classic_superpixels import classic_superpixels
from tag2mask.evidence.superpixel import discover_superpixels, label_superpixels
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.views import load_image
from tag2mask.study.superpixels.features import open_features
from tag2mask.study.superpixels.settings import FeatureSet
from tag2mask.study.superpixels.stages import (
    MATCHED,
    ClassicSuperpixels,
    ClassicSuperpixelSettings,
    FeatureSuperpixels,
    FeatureSuperpixelSettings,
    MatchSettings,
    MatchThreshold,
    Positiveness,
    PositivenessSettings,
    Rule,
    ScoreSettings,
    ScoreSuperpixels,
    object_similarity,
)
from tests.builders import file_bytes, shapes_environment

COLOURS = FeatureSet("rgb", long_side=64, cell=8)
NO_CRF = CRFSettings(iterations=0)
needs_ximgproc = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="OpenCV has no contributed modules")


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return shapes_environment(tmp_path, threads=1)


def in_colours(rule: Rule = "lowest", taus: tuple[float, ...] = (0.2, 0.9), photographs: int = 0) -> FeatureSuperpixels:
    return FeatureSuperpixels(FeatureSuperpixelSettings(COLOURS, rule, taus, 0.7, NO_CRF, 10**6, photographs))


def test_maps_are_what_discovery_gives(env: Environment) -> None:
    stage = in_colours()
    stage.run(env)
    sample = stage.samples(env)[0]
    maps = stage.load(env, sample.id)
    assert list(maps) == ["0.2", "0.9"]
    image = load_image(sample)
    features = open_features(COLOURS, env.runtime)(image)
    patches = discover_superpixels(features.flatten(1).mT, 0.9).view(features.shape[1:]).numpy()
    expected = label_superpixels(image.permute(1, 2, 0).numpy(), patches, iterations=0)
    np.testing.assert_array_equal(maps["0.9"], expected)
    assert maps["0.9"].max() > maps["0.2"].max()


def test_rules_differ_and_are_fingerprinted(env: Environment) -> None:
    stages = [in_colours(rule) for rule in ("lowest", "highest", "ncut")]
    assert len({stage.fingerprint(env) for stage in stages}) == 3
    found = []
    for stage in stages:
        stage.run(env)
        found.append(stage.load(env, stage.samples(env)[0].id)["0.9"])
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_a_stopped_stage_goes_on_to_the_same_bytes(env: Environment, tmp_path: Path) -> None:
    stage = in_colours()
    stage.run(env)
    whole = file_bytes(stage.folder(env))
    for path in sorted((stage.folder(env) / "items").iterdir())[:3]:
        path.unlink()
    (stage.folder(env) / "stage.json").unlink()
    in_colours().run(env)
    assert file_bytes(stage.folder(env)) == whole


def test_a_part_of_the_photographs_is_evenly_spread(env: Environment) -> None:
    ids = [sample.id for sample in in_colours(photographs=2).samples(env)]
    assert ids == ["shape_01", "shape_04"]
    assert len(in_colours().samples(env)) == 6


def test_a_missing_file_is_told(env: Environment) -> None:
    stage = in_colours(photographs=1)
    stage.run(env)
    (only,) = stage.samples(env)
    stage.path(env, only.id).unlink()
    with pytest.raises(WorkspaceError, match=only.id):
        stage.load(env, only.id)


def test_estimates_grow_with_the_photographs(env: Environment) -> None:
    few, all_ = in_colours(photographs=1).estimate(env), in_colours().estimate(env)
    assert 0 < few.seconds < 60
    assert all_.bytes > 3 * few.bytes > 0
    assert not in_colours().folder(env).exists()
    stages = (MatchThreshold(MatchSettings(COLOURS, COLOURS, 0.5, 2)), Positiveness(PositivenessSettings(COLOURS, 2)))
    for stage in (*stages, ScoreSuperpixels(in_colours(), ScoreSettings())):
        assert stage.estimate(env).seconds > 0


@needs_ximgproc
def test_sizes_are_scaled_with_the_photograph(env: Environment) -> None:
    stage = ClassicSuperpixels(ClassicSuperpixelSettings("SLIC", (100,), 3, 500))
    own = cv2.getNumThreads()
    stage.run(env)
    assert cv2.getNumThreads() == own
    sample = stage.samples(env)[0]
    image = np.asarray(Image.open(sample.image).convert("RGB"))
    side = round(100 * max(image.shape) / 500)
    np.testing.assert_array_equal(
        stage.load(env, sample.id)["100"], classic_superpixels(image, "SLIC", side, iterations=3)
    )


@needs_ximgproc
def test_numbers_and_plain_sizes_are_taken_as_they_are(env: Environment) -> None:
    sample = in_colours().samples(env)[0]
    image = np.asarray(Image.open(sample.image).convert("RGB"))
    own = cv2.getNumThreads()
    for algorithm, reference in (("SEEDS", 500), ("LSC", 0)):
        stage = ClassicSuperpixels(ClassicSuperpixelSettings(algorithm, (20,), 2, reference, 0))
        stage.run(env)
        cv2.setNumThreads(1)  # as in the stage: LSC's sums depend on the number of threads
        try:
            expected = classic_superpixels(image, algorithm, 20, iterations=2)
        finally:
            cv2.setNumThreads(own)
        np.testing.assert_array_equal(stage.load(env, sample.id)["20"], expected)


def test_the_search_finds_as_many_superpixels(env: Environment) -> None:
    finer = FeatureSet("rgb", long_side=64, cell=4)
    stage = MatchThreshold(MatchSettings(finer, COLOURS, 0.9, 3))
    stage.run(env)
    found = stage.metrics(env)
    assert found["photographs"] == 3
    assert abs(found["superpixels"] - found["wanted"]) <= 0.2 * found["wanted"]
    assert 0 <= found["tau"] < 1
    assert f"{found['tau']:.4f}" in stage.headline(env)
    matched = FeatureSuperpixels(FeatureSuperpixelSettings(finer, "lowest", (), 0.7, NO_CRF, 10**6), stage)
    matched.run(env)
    counts = [len(np.unique(matched.load(env, sample.id)[MATCHED])) for sample in stage.samples(env)]
    assert sum(counts) / 3 == pytest.approx(found["superpixels"])


def test_the_search_with_equal_features_finds_the_threshold_again(env: Environment) -> None:
    stage = MatchThreshold(MatchSettings(COLOURS, COLOURS, 0.9, 6))
    stage.run(env)
    found = stage.metrics(env)
    assert found["superpixels"] == pytest.approx(found["wanted"])


def test_scores_are_means_by_both_rules(env: Environment) -> None:
    maps = in_colours()
    maps.run(env)
    scored = ScoreSuperpixels(maps, ScoreSettings(2))
    scored.run(env)
    result = json.loads((scored.folder(env) / "result.json").read_text())
    assert result["photographs"] == 2
    for rule, borders in (("labelled", False), ("with_unlabelled", True)):
        means = SuperpixelMeans()
        for sample in scored.samples(env):
            truth = read_mask(str(sample.mask))
            means.add(maps.load(env, sample.id)["0.9"], truth, unlabelled_borders=borders)
        assert result["scores"]["0.9"][rule] == means.scores().to_dict()


def test_superpixels_are_made_without_tags_and_masks(env: Environment) -> None:
    assert in_colours().reads == frozenset({"images"})
    assert MatchThreshold(MatchSettings(COLOURS, COLOURS, 0.5, 2)).reads == frozenset({"images"})


def test_object_similarity_counts_within_the_class() -> None:
    truth = torch.tensor([[1, 1, 2], [1, 0, UNLABELLED]])
    vectors = torch.tensor([[1.0, 0], [1, 1], [-1, 0], [-1, 0.5], [1, 0], [1, 0]])
    positive, negative = object_similarity(vectors.T.reshape(2, 2, 3), truth)
    # class 1: p0 ~ p1, p1 ~ p0, and p3 alone
    torch.testing.assert_close(positive, torch.tensor([[2 / 3, 2 / 3, 1], [1 / 3, 0, 0]]))
    torch.testing.assert_close(negative, torch.tensor([[1 / 3, 1 / 3, 0], [2 / 3, 0, 0]]))


def test_positiveness_is_kept_per_photograph(env: Environment) -> None:
    stage = Positiveness(PositivenessSettings(COLOURS, 2))
    stage.run(env)
    for sample in stage.samples(env):
        found = stage.load(env, sample.id)
        total = found["positive"] + found["negative"]
        assert set(np.unique(total.round(5))) == {0.0, 1.0}
