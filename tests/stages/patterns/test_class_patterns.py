import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tag2mask.data.resizing import resize_scores
from tag2mask.engine.environment import Environment
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.evidence.class_statistics import ClassStatistics
from tag2mask.networks.inference import ScaleSettings, image_scales
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.patterns.class_patterns import ClassPatterns, PatternSettings, class_patterns
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.views import load_image
from tests.stages.conftest import Finished

BLOCKS = ("blocks.4", "blocks.2")
SETTINGS = PatternSettings(photographs_per_class=0, long_side=64, output_stride=16, components=5, blocks=BLOCKS)


def patterns_at(finished: Finished, settings: PatternSettings = SETTINGS) -> ClassPatterns:
    stage = class_patterns(finished.stage(TrainClassifier), finished.stage(MakeActivationMaps), settings)
    if not stage.complete(finished.env):
        stage.run(finished.env)
    return stage


def stacked(
    finished: Finished, stage: ClassPatterns, block: str, class_id: int, ids: set[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Features and CAM values of all cells of a class's photographs, one block a pass, float64."""
    env = finished.env
    network = stage.classifier.load(env, output_stride=16)
    features, heights = [], []
    for sample in stage.samples(env):
        if sample.id not in ids:
            continue
        scales = ScaleSettings(long_side=64, mirror=False)
        (shown,) = image_scales(load_image(sample), network.backbone, scales, torch.device("cpu"))
        with torch.no_grad():
            (found,) = network.backbone.features_at(shown, [block])
        cams = finished.stage(MakeActivationMaps).load(env, sample.id)
        map_ = cams.maps[cams.class_ids.index(class_id)]
        features.append(found[0].flatten(1).T.double().numpy())
        heights.append(resize_scores(map_[None, None], tuple(found.shape[2:]))[0, 0].flatten().double().numpy())
    return np.concatenate(features), np.concatenate(heights)


def test_one_pass_equals_numpy_on_stacked_features(finished: Finished) -> None:
    stage = patterns_at(finished)
    patterns, figures = stage.load(finished.env), stage.metrics(finished.env)["blocks"]
    assert list(figures) == list(patterns.blocks) == list(BLOCKS)
    for block in BLOCKS:
        for class_id, name in enumerate(finished.env.dataset.classes, start=1):
            tagged = {sample.id for sample in stage.samples(finished.env) if class_id in sample.tags}
            features, cams = stacked(finished, stage, block, class_id, tagged)
            covariance = np.cov(features, rowvar=False, bias=True)
            values, vectors = np.linalg.eigh(covariance)
            q = (features - features.mean(0)) @ vectors[:, -1]
            correlation = np.corrcoef(q, cams)[0, 1]

            found = patterns.blocks[block]
            np.testing.assert_allclose(found.means[class_id - 1], features.mean(0), atol=1e-6)
            first, second = found.components[class_id - 1].numpy()
            np.testing.assert_allclose(first, np.sign(correlation) * vectors[:, -1], atol=1e-4)
            np.testing.assert_allclose(abs(second @ vectors[:, -2]), 1, atol=1e-4)
            assert second[abs(second).argmax()] > 0
            told = figures[block][name]
            assert (told["photographs"], told["pixels"]) == (len(tagged), len(features))
            np.testing.assert_allclose(told["shares"], values[::-1][:5] / values.sum(), atol=1e-6)
            assert told["cam_correlation"] == pytest.approx(abs(correlation), abs=1e-5)

            projected = patterns.project(block, torch.from_numpy(features), class_id)
            np.testing.assert_allclose(projected, np.sign(correlation) * q, atol=1e-4)


def test_the_plane_has_q_first(finished: Finished) -> None:
    env, stage = finished.env, patterns_at(finished)
    sample = stage.samples(env)[0]
    (features,) = stage.open(env, ("blocks.2",))(sample)
    plane = stage.open_plane(env, "blocks.2")(sample, sample.tags[0])
    patterns = stage.load(env)
    assert plane.shape == (*features.shape[:2], 2)
    assert torch.equal(plane[..., 0], patterns.project("blocks.2", features, sample.tags[0]))
    components = patterns.blocks["blocks.2"].components[sample.tags[0] - 1]
    centred = features.double() - patterns.blocks["blocks.2"].means[sample.tags[0] - 1]
    torch.testing.assert_close(plane[..., 1], (centred @ components[1]).float())


def test_photographs_are_shown_whole_and_unpadded(finished: Finished) -> None:
    stage = patterns_at(finished)
    for sample in stage.samples(finished.env):
        height, width = load_image(sample).shape[1:]
        rows = -(-round(64 * height / width) // 8)
        assert stage.open(finished.env)(sample)[1].shape[:2] == (rows, 8)


def test_repeated_the_bytes_are_the_same_whatever_the_threads(finished: Finished, tmp_path: Path) -> None:
    stage, runtime = patterns_at(finished), finished.env.runtime
    made = stage.folder(finished.env)
    for at_a_time in (1, 3):
        env = Environment(finished.env.dataset, Workspace(tmp_path / str(at_a_time)), runtime)
        for needed in (stage.classifier, stage.cams):
            needed.folder(env).parent.mkdir(parents=True, exist_ok=True)
            needed.folder(env).symlink_to(needed.folder(finished.env))
        again = class_patterns(stage.classifier, stage.cams, SETTINGS)
        again.at_a_time = lambda env, count=at_a_time: count  # type: ignore[method-assign]
        again.run(env)
        for name in ("patterns.safetensors", "result.json"):
            assert (again.folder(env) / name).read_bytes() == (made / name).read_bytes()


def test_classes_are_taken_from_a_seeded_draw(finished: Finished) -> None:
    env = finished.env
    stage = patterns_at(finished, dataclasses.replace(SETTINGS, photographs_per_class=2))
    drawn = stage.drawn(env)
    tagged = {c: {sample.id for sample in stage.samples(env) if c in sample.tags} for c in drawn}
    for class_id, ids in drawn.items():
        assert len(ids) == 2
        assert ids < tagged[class_id]
    assert stage.drawn(env) == drawn
    seeds = [
        stage.drawn(Environment(env.dataset, env.workspace, dataclasses.replace(env.runtime, seed=seed)))
        for seed in range(6)
    ]
    assert any(other != drawn for other in seeds)
    assert patterns_at(finished).drawn(env) == tagged

    # A photograph of two classes counts in those alone that drew it.
    for class_id, name in enumerate(env.dataset.classes, start=1):
        features, _ = stacked(finished, stage, "blocks.2", class_id, drawn[class_id])
        assert stage.metrics(env)["blocks"]["blocks.2"][name]["pixels"] == len(features)
        np.testing.assert_allclose(stage.load(env).blocks["blocks.2"].means[class_id - 1], features.mean(0), atol=1e-6)


def test_no_mask_is_read(finished: Finished) -> None:
    stage = patterns_at(finished)
    assert stage.reads == {"images", "tags"}
    assert all(sample.mask is None for sample in stage.samples(finished.env))


def test_a_class_without_photographs_has_no_pattern(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = class_patterns(
        finished.stage(TrainClassifier), finished.stage(MakeActivationMaps), dataclasses.replace(SETTINGS, components=4)
    )
    everything = stage.drawn(finished.env)
    monkeypatch.setattr(stage, "drawn", lambda env: {1: everything[1], 2: set()})
    stage.run(finished.env)
    patterns = stage.load(finished.env)
    assert patterns.has(1)
    assert not patterns.has(2)
    assert not patterns.blocks["blocks.2"].components[1].any()
    assert stage.metrics(finished.env)["blocks"]["blocks.2"]["square"] == {"photographs": 0, "pixels": 0}
    assert stage.notes(finished.env)[-1] == "No class pattern of square: no training image has the tag."
    assert stage.headline(finished.env).endswith("on average over 1 class")
    assert len(stage.details(finished.env)) == 2


def test_what_is_told(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = patterns_at(finished)
    figures = {"photographs": 3, "pixels": 9, "shares": [0.25, 0.1], "cam_correlation": 0.5}
    weak = {**figures, "photographs": 1, "shares": [0.15, 0.05], "cam_correlation": 0.04}
    monkeypatch.setattr(stage, "metrics", lambda env: {"blocks": {"blocks.4": {"disc": figures, "square": weak}}})
    assert stage.headline(finished.env) == (
        "blocks.4: 20.0 % of the variance along the first component, 7.5 % along the second, on average over 2 classes"
    )
    assert stage.details(finished.env)[1] == (
        "blocks.4, square: 15.0 % of the variance along the first component, correlation with the CAM 0.04, 1 image"
    )
    (note,) = stage.notes(finished.env)
    assert note.startswith("At blocks.4 the class pattern of square hardly follows the CAM (correlation below 0.1)")


def test_features_that_do_not_vary_have_shares_of_nothing(finished: Finished) -> None:
    counted = ClassStatistics(2, 3)
    counted.add(np.ones((4, 3)), [1], np.zeros((1, 4)))
    _, told = patterns_at(finished)._components(counted, 1)
    assert told == {"shares": [0.0, 0.0, 0.0], "cam_correlation": 0.0}


def test_cost_is_estimated(finished: Finished) -> None:
    found = patterns_at(finished).estimate(finished.env)
    assert found.seconds > 0
    assert found.bytes > 0


def test_a_damaged_file_is_told(finished: Finished) -> None:
    stage = patterns_at(finished, dataclasses.replace(SETTINGS, components=3))
    path = stage.folder(finished.env) / "patterns.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(WorkspaceError, match="delete the folder"):
        stage.load(finished.env)


def test_impossible_settings_are_told(finished: Finished) -> None:
    with pytest.raises(SettingsError, match="photographs_per_class"):
        PatternSettings(photographs_per_class=-1)
    with pytest.raises(SettingsError, match="components: 1 must be 2 or more"):
        PatternSettings(components=1)
    for blocks in ((), ("blocks.2", "blocks.2")):
        with pytest.raises(SettingsError, match="one or more blocks, each once"):
            PatternSettings(blocks=blocks)
    with pytest.raises(SettingsError, match=r"blocks\.9"):
        patterns_at(finished, PatternSettings(blocks=("blocks.9",)))
    with pytest.raises(SettingsError, match="output stride 5"):
        patterns_at(finished, PatternSettings(output_stride=5))
