"""Several frozen networks under a classifier and a segmenter, on the shapes and random weights."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import tag2mask
from tag2mask.data.masks import read_mask
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import distinct, run_stages
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.errors import SettingsError
from tag2mask.methods.registry import METHODS
from tag2mask.networks.model_file import load_model, read_header
from tag2mask.networks.trunks import Trunks
from tag2mask.runs.prepare import prepare
from tag2mask.runs.settings import as_arguments, parse_arguments
from tag2mask.stages.activation_maps import ActivationMapSettings, activation_maps
from tag2mask.stages.block_features import BlockFeatures, FeatureMoments, JoinedFeatures
from tag2mask.stages.gradient_maps import GradientSettings, gradient_maps
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.train_classifier import ClassifierSettings, TrainClassifier, train_classifier
from tag2mask.stages.train_segmenter import TrainSegmenter
from tag2mask.stages.trunks import TrunkSettings
from tag2mask.stages.views import ViewSettings, load_image
from tests.builders import TINY, TINY_OF, file_bytes, write_shapes

PARTS: list[dict[str, Any]] = [
    {"name": "tf_efficientnet_lite0", "weights": "none", "block": "blocks.3", "long_side": 128},
    {"name": "tf_efficientnet_lite0", "weights": "none", "block": "blocks.5", "long_side": 128},
    {"name": "vit_tiny_patch16_224", "weights": "none", "block": "blocks.1", "long_side": 64},
]
VIEWS = {"crop": 64, "whole": True}
ON_TRUNKS: dict[str, Any] = {
    **TINY,
    "classifier": {"trunks": PARTS, "views": VIEWS, "training": TINY["classifier"]["training"]},
    "cams": {"inference": {"scales": [1.0, 2.0]}},
    "segmenter": {
        "trunks": PARTS,
        "head": {"width": 16, "dilations": [1]},
        "views": VIEWS,
        "label_stride": 4,
        "training": TINY["segmenter"]["training"],
    },
}


class Made(NamedTuple):
    folder: Path
    env: Environment
    plan: Plan


def planned(folder: Path, method: str = "cam", **given: Any) -> tuple[Environment, Plan]:
    places = {"data": folder / "data", "workspace": folder / "ws", "threads": 1, "device": "cpu"}
    settings = {
        name: ON_TRUNKS[name] for name in (("segmenter", "prediction") if method == "supervised" else ON_TRUNKS)
    }
    return prepare(
        parse_arguments(METHODS[method], as_arguments({**settings, **places, **given})), Reporter(quiet=True)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("trunks")
    write_shapes(folder / "data")
    env, plan = planned(folder)
    run_stages(plan.stages(), env)
    return Made(folder, env, plan)


def segmenter(made: Made) -> TrainSegmenter:
    assert isinstance(made.plan.model, TrainSegmenter)
    return made.plan.model


def joined(made: Made) -> JoinedFeatures:
    found = segmenter(made).batch.joined
    assert found is not None
    return found


def test_features_are_kept_once_for_all_that_read_them(made: Made) -> None:
    folders = made.env.workspace.stages
    assert len(list(folders.glob("block_features-*"))) == len(PARTS)
    before = file_bytes(folders)
    env, plan = planned(made.folder, "supervised")
    read = {stage.folder(env).name for stage in distinct(plan.stages(), env) if isinstance(stage, BlockFeatures)}
    assert read == {path.name for path in folders.glob("block_features-*")}
    run_stages(plan.stages(), env)
    assert {name: content for name, content in file_bytes(folders).items() if "block_features" in name} == {
        name: content for name, content in before.items() if "block_features" in name
    }


def test_what_is_kept_is_what_the_network_gives(made: Made) -> None:
    stage, env = joined(made).kept[2], made.env
    backbone = stage.settings.backbone.create(env.runtime.seed).eval()
    trunks = Trunks([backbone], [stage.settings.long_side])
    for sample in stage.samples(env)[:3]:
        (shown,) = trunks.views(load_image(sample))
        with torch.no_grad():
            for mirror, image in ((False, shown), (True, shown.flip(3))):
                assert torch.allclose(stage.load(env, sample.id, mirror=mirror), backbone(image)[0], atol=2e-3)


def test_moments_are_those_of_all_cells(made: Made) -> None:
    stage, env = joined(made).moments[0], made.env
    assert isinstance(stage, FeatureMoments)
    cells = [stage.features.load(env, sample.id, mirror=False).flatten(1) for sample in stage.samples(env)]
    every = torch.cat(cells, 1).double().numpy()
    mean, std = stage.load(env)
    assert np.allclose(mean, every.mean(1), atol=1e-5)
    assert np.allclose(std, np.maximum(every.std(1), 1e-4), atol=1e-5)
    assert stage.metrics(env)["cells"] == every.shape[1]


@pytest.mark.parametrize("mirror", [False, True])
def test_a_training_step_reads_what_inference_does(made: Made, mirror: bool) -> None:
    """Joined features of a batch lie at the top left, 0 around them, and are those of the photograph itself."""
    env, entries = made.env, joined(made).open(made.env)
    network, _ = load_model(segmenter(made).model_path(env))
    assert isinstance(network.backbone, Trunks)
    for sample in segmenter(made).samples(env)[:3]:
        image = load_image(sample)
        found = entries(sample, (image.shape[1], image.shape[2]), mirror)
        shown = network.backbone.views(image)
        expected = network.backbone([part.flip(3) if mirror else part for part in shown])[0]
        rows, columns = expected.shape[1:]
        assert torch.allclose(found["features"][:, :rows, :columns], expected, atol=0.05)
        assert found["cells"][:rows, :columns].all()
        assert int(found["cells"].sum()) == rows * columns
        found["features"][:, :rows, :columns] = 0
        assert not found["features"].any()


def test_labels_lie_on_the_cells(made: Made) -> None:
    stage, env = segmenter(made), made.env
    for sample in stage.samples(env):
        image = load_image(sample)
        view = stage.batch.whole_view((image.shape[1], image.shape[2]))
        example = stage.open(env)(sample, 0)
        assert example["labels"].shape == (16, 16)
        rows, columns = (side // 8 for side in view.resized)  # 64 pixels are 8 cells
        inside = entries_inside(made, sample)
        assert torch.equal(
            inside, torch.tensor([[row < rows and column < columns for column in range(8)] for row in range(8)])
        )
        assert (example["labels"].view(8, 2, 8, 2).amax((1, 3))[~inside] == 255).all()


def entries_inside(made: Made, sample: Any) -> torch.Tensor:
    image = load_image(sample)
    return joined(made).open(made.env)(sample, (image.shape[1], image.shape[2]), False)["cells"]


def test_made_up_examples_have_the_shapes_of_real_ones(made: Made) -> None:
    for stage in distinct(made.plan.stages(), made.env):
        if isinstance(stage, TrainSegmenter | TrainClassifier):
            real, made_up = stage.open(made.env)(stage.samples(made.env)[0], 0), stage.example(made.env)
            assert {name: value.shape for name, value in made_up.items()} == {
                name: value.shape for name, value in real.items()
            }
            assert stage.estimate(made.env).seconds > 0


def test_the_model_file_makes_the_masks_of_the_run(made: Made, tmp_path: Path) -> None:
    model = segmenter(made).model_path(made.env)
    header = read_header(model)
    assert [part["block"] for part in header.backbone["trunks"]] == ["blocks.3", "blocks.5", "blocks.1"]
    assert len(header.weights["trunks"]) == 3
    network = segmenter(made).load(made.env)
    assert isinstance(network.backbone, Trunks)
    assert float(network.backbone.std.std()) > 0  # standardised by the photographs' own statistics
    samples = made.plan.predictions.samples(made.env)
    places = {"workspace": made.folder / "ws", "threads": 1, "device": "cpu", "quiet": True}
    result = tag2mask.run("cam", made.folder / "data", **places, **flat(ON_TRUNKS))
    written = tag2mask.predict(
        result.model,
        [sample.image for sample in samples],
        tmp_path,
        device="cpu",
        threads=1,
        quiet=True,
    )
    for sample, file in zip(samples, written, strict=True):
        assert np.array_equal(read_mask(file.mask), read_mask(made.plan.predictions.path(made.env, sample.id)))


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by keys that are names in Python; lists stay."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}__") if isinstance(value, dict) else {key: value}
    return found


def test_maps_of_the_classifier_cover_the_photograph(made: Made) -> None:
    (cams,) = (stage for stage in distinct(made.plan.stages(), made.env) if stage.name == "cams")
    for sample in cams.samples(made.env):
        found = cams.load(made.env, sample.id)  # type: ignore[attr-defined]
        assert found.class_ids == sample.tags
        assert float(found.maps.amax()) <= 1


VIEW = ViewSettings(crop=64, whole=True)
TRUNKS = tuple(TrunkSettings(**part) for part in PARTS)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (SegmenterSettings, {"views": ViewSettings(crop=64)}, r"segmenter\.trunks: needs segmenter\.views\.whole"),
        (SegmenterSettings, {"views": ViewSettings(crop=60, whole=True)}, r"crop: 60 must be a multiple of 8"),
        (SegmenterSettings, {"views": ViewSettings(crop=64, stretch=True)}, "keep their aspect"),
        (SegmenterSettings, {"scales": (1.0, 0.5)}, r"segmenter\.scales"),
        (ClassifierSettings, {"views": ViewSettings(crop=64, whole=True, colour=0.1)}, r"classifier\.views\.colour 0"),
    ],
)
def test_settings_that_do_not_go_together(kind: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        kind(**{"trunks": TRUNKS, "views": VIEW, **wrong})


def test_what_reads_a_single_network_says_so() -> None:
    classifier = train_classifier(ClassifierSettings(trunks=TRUNKS, views=VIEW))
    with pytest.raises(SettingsError, match=r"classifier\.trunks: the blocks of a single network"):
        gradient_maps(classifier, GradientSettings(block="blocks.2"))
    with pytest.raises(SettingsError, match=r"cams\.output_stride"):
        activation_maps(classifier, ActivationMapSettings(output_stride=16))
    with pytest.raises(SettingsError, match=r"long_side 100"):
        TrunkSettings(long_side=100)
    with pytest.raises(SettingsError, match=r"block"):
        dataclasses.replace(TRUNKS[0], block="blocks.17")


NEED_ONE = {"sec", "dsrg", "ssdd", "dcp", "masking", "rrm", "aalr"}
"""Methods whose tiny settings read the blocks of the classifier's one backbone, or go on from it."""


@pytest.mark.parametrize("name", METHODS)
def test_methods_take_several_networks_or_say_at_once_that_they_do_not(name: str) -> None:
    if name == "supervised":
        return
    settings = TINY_OF[name] | {"classifier": ON_TRUNKS["classifier"], "cams": ON_TRUNKS["cams"]}
    if name in ("rrm", "aalr"):
        del settings["cams"]
    if name == "ssdd":
        settings |= {part: {**settings[part], "start": "classifier"} for part in ("static", "dynamic")}
    arguments = as_arguments({"data": "x", **settings})
    if name in NEED_ONE:
        with pytest.raises(SettingsError, match=r"classifier\.trunks: the blocks of a single network"):
            METHODS[name].build(parse_arguments(METHODS[name], arguments).settings)
    else:
        METHODS[name].build(parse_arguments(METHODS[name], arguments).settings)
