import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tag2mask.data.images import read_image
from tag2mask.data.layers import HeatMap
from tag2mask.engine.stage import PerImageStage, map_threads
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.evaluation.segmentation import ConfusionMatrix
from tag2mask.evidence.cam import merge_score_maps
from tag2mask.networks.inference import image_scales
from tag2mask.stages.activation_maps import (
    ActivationMaps,
    ActivationMapSettings,
    EvaluateActivationMaps,
    MakeActivationMaps,
    ThresholdCurveSettings,
    activation_maps,
)
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.train_segmenter import TrainSegmenter
from tag2mask.stages.views import load_image
from tests.stages.conftest import Finished

UNTAGGED = "shape_05"


def test_files_do_not_depend_on_how_many_photographs_are_worked_on_at_a_time(finished: Finished) -> None:
    env = finished.env
    assert isinstance(finished.plan.model, TrainSegmenter)
    stages = (finished.stage(MakeActivationMaps), finished.plan.model.batch.features, finished.plan.predictions)
    for stage in stages:
        assert isinstance(stage, PerImageStage)
        files: dict[str, bytes] = {}
        make, samples = stage.open(env), list(stage.samples(env))
        map_threads(lambda sample: files.update({sample.id: make(sample)}), samples, 3, lambda _: None)  # noqa: B023
        assert files == {sample.id: stage.path(env, sample.id).read_bytes() for sample in samples}


def test_a_file_holds_ids_maps_and_size(finished: Finished) -> None:
    stage = finished.stage(MakeActivationMaps)
    for sample in finished.env.dataset.train:
        with np.load(stage.path(finished.env, sample.id), allow_pickle=False) as content:
            assert content["maps"].dtype == np.float16
            assert content["class_ids"].tolist() == list(sample.tags)
            height, width = read_image(sample.image).shape[:2]
            assert content["size"].tolist() == [height, width]
            assert content["maps"].shape == (len(sample.tags), -(-height // 4), -(-width // 4))
            assert np.isin(content["maps"].max((1, 2)) if sample.tags else [], (0, 1)).all()


def test_maps_are_the_classifiers(finished: Finished) -> None:
    """By hand: the classifier at stride 16, its tagged classes' score maps at all scales, merged."""
    stage, env = finished.stage(MakeActivationMaps), finished.env
    network = finished.stage(TrainClassifier).load(env, output_stride=16)
    sample = env.dataset.train.samples[0]
    image = load_image(sample)
    with torch.no_grad():
        scores = [
            network.score_maps(batch)[:, [tag - 1 for tag in sample.tags]]
            for batch in image_scales(image, network.backbone, finished.settings.cams.inference, torch.device("cpu"))
        ]
    expected = merge_score_maps(scores, (12, 16))
    found = stage.load(env, sample.id)
    assert found.class_ids == sample.tags == (1, 2)
    assert torch.equal(found.maps, expected.half().float())


def test_a_photograph_without_tags_has_no_maps(finished: Finished) -> None:
    stage = finished.stage(MakeActivationMaps)
    cams = stage.load(finished.env, UNTAGGED)
    assert cams.class_ids == ()
    assert cams.at_size().shape == (0, *cams.size)
    (layer,) = stage.layers(finished.env, UNTAGGED).values()
    assert isinstance(layer, HeatMap)
    assert layer.values.shape == cams.maps.shape[1:]
    assert not layer.values.any()


def test_maps_are_brought_to_the_photograph() -> None:
    maps = torch.rand(2, 3, 4)
    cams = ActivationMaps((1, 5), maps, (12, 15))
    expected = F.interpolate(maps[None], (12, 15), mode="bilinear", align_corners=False)[0]
    assert torch.equal(cams.at_size(), expected)
    assert cams.at_size((6, 7)).shape == (2, 6, 7)


def test_the_layers_are_the_largest_map_and_those_of_several_classes(finished: Finished) -> None:
    stage, env = finished.stage(MakeActivationMaps), finished.env
    tagged_twice, tagged_once = (env.dataset.sample(name) for name in ("shape_00", "shape_01"))
    assert (len(tagged_twice.tags), len(tagged_once.tags)) == (2, 1)
    maps = stage.load(env, tagged_twice.id).maps.numpy()
    expected = {"": maps.max(axis=0), "disc": maps[0], "square": maps[1]}
    found = stage.layers(env, tagged_twice.id)
    assert list(found) == list(expected)
    for name, layer in found.items():
        assert isinstance(layer, HeatMap)
        assert np.array_equal(layer.values, expected[name])
    assert list(stage.layers(env, tagged_once.id)) == [""]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "words", "other"])
def test_a_damaged_file_is_named(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    stage, env = finished.stage(MakeActivationMaps), finished.env
    whole = stage.path(env, "shape_00").read_bytes()
    other = io.BytesIO()
    np.savez(other, x=np.zeros(3))
    contents = {"empty": b"", "cut": whole[: len(whole) // 2], "words": b"no archive", "other": other.getvalue()}
    path = tmp_path / "items" / "shape_00.npz"
    path.parent.mkdir()
    if damage != "missing":
        path.write_bytes(contents[damage])
    monkeypatch.setattr(stage, "path", lambda *_: path)
    with pytest.raises(WorkspaceError, match=r"shape_00\.npz.*; delete the folder .*cams-"):
        stage.load(env, "shape_00")


def test_the_curve_is_mean_iou_at_every_threshold(finished: Finished) -> None:
    env, cams = finished.env, finished.stage(MakeActivationMaps)
    found = finished.stage(EvaluateActivationMaps).metrics(env)
    assert [point["threshold"] for point in found["curve"]] == pytest.approx([step / 20 for step in range(1, 20)])
    for point in found["curve"][::6]:
        matrix = ConfusionMatrix(env.dataset.label_names)
        for sample in env.dataset.train:
            assert sample.mask is not None
            maps = cams.load(env, sample.id).at_size()
            background = torch.full((1, *maps.shape[1:]), np.float32(point["threshold"]))
            ids = np.array([0, *sample.tags])
            matrix.add(sample.mask.read(), ids[torch.cat([background, maps]).argmax(0)])
        assert point["mean_iou"] == pytest.approx(matrix.scores().mean_iou), point
    best = max(found["curve"], key=lambda point: point["mean_iou"])
    assert found["best_mean_iou"] == best["mean_iou"]
    assert found["best_threshold"] == best["threshold"]


def test_settings_are_checked_before_anything_is_trained(finished: Finished) -> None:
    classifier = finished.stage(TrainClassifier)
    with pytest.raises(SettingsError, match="stride 7"):
        activation_maps(classifier, ActivationMapSettings(output_stride=7))
    for wrong in ({"rule": "mean"}, {"output_stride": -1}, {"map_stride": 0}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            ActivationMapSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="steps"):
        ThresholdCurveSettings(steps=0)


def test_the_training_stride_is_kept_unless_another_is_given(finished: Finished) -> None:
    classifier = finished.stage(TrainClassifier)
    kept = activation_maps(classifier, dataclasses.replace(finished.settings.cams, output_stride=0))
    kept.run(finished.env)
    assert kept.load(finished.env, "shape_00").maps.shape == (2, 12, 16)
    changed = finished.stage(MakeActivationMaps).load(finished.env, "shape_00").maps
    assert not torch.allclose(kept.load(finished.env, "shape_00").maps, changed, atol=0.05)


def test_an_estimate_grows_with_the_photographs(finished: Finished) -> None:
    stage = finished.stage(MakeActivationMaps)
    assert stage.estimate(finished.env).seconds > 0
    assert stage.estimate(finished.env).bytes == 2 * stage.on("val").estimate(finished.env).bytes
    assert finished.stage(EvaluateActivationMaps).estimate(finished.env).seconds > 0
