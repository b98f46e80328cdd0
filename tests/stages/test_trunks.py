"""Several frozen networks under a classifier and a segmenter, on the shapes and random weights."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tag2mask
from tag2mask.data.masks import read_mask
from tag2mask.engine.graph import distinct
from tag2mask.errors import SettingsError
from tag2mask.methods.registry import METHODS
from tag2mask.networks.model_file import read_header
from tag2mask.networks.trunks import Trunks
from tag2mask.runs.settings import as_arguments, parse_arguments
from tag2mask.stages.activation_maps import ActivationMapSettings, activation_maps
from tag2mask.stages.gradient_maps import GradientSettings, gradient_maps
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.train_classifier import ClassifierSettings, TrainClassifier, train_classifier
from tag2mask.stages.train_segmenter import TrainSegmenter
from tag2mask.stages.trunks import TrunkSettings
from tag2mask.stages.views import ViewSettings, load_image
from tests.builders import TINY_OF
from tests.stages.segmenters import check_made_up_example
from tests.stages.several_networks import ON_TRUNKS, PARTS, Made, joined, segmenter


def test_labels_lie_on_the_cells(several_networks: Made) -> None:
    stage, env = segmenter(several_networks), several_networks.env
    for sample in stage.samples(env):
        image = load_image(sample)
        view = stage.batch.whole_view((image.shape[1], image.shape[2]))
        example = stage.open(env)(sample, 0)
        assert example["labels"].shape == (16, 16)
        rows, columns = (side // 8 for side in view.resized)  # 64 pixels are 8 cells
        inside = entries_inside(several_networks, sample)
        assert torch.equal(
            inside, torch.tensor([[row < rows and column < columns for column in range(8)] for row in range(8)])
        )
        assert (example["labels"].view(8, 2, 8, 2).amax((1, 3))[~inside] == 255).all()


def entries_inside(several_networks: Made, sample: Any) -> torch.Tensor:
    image = load_image(sample)
    return joined(several_networks).open(several_networks.env)(sample, (image.shape[1], image.shape[2]), False)["cells"]


def test_made_up_examples_have_the_shapes_of_real_ones(several_networks: Made) -> None:
    for stage in distinct(several_networks.plan.stages(), several_networks.env):
        if isinstance(stage, TrainSegmenter | TrainClassifier):
            check_made_up_example(stage, several_networks.env)


def test_the_model_file_makes_the_masks_of_the_run(several_networks: Made, tmp_path: Path) -> None:
    model = segmenter(several_networks).model_path(several_networks.env)
    header = read_header(model)
    assert [part["block"] for part in header.backbone["trunks"]] == ["blocks.3", "blocks.5", "blocks.1"]
    assert len(header.weights["trunks"]) == 3
    network = segmenter(several_networks).load(several_networks.env)
    assert isinstance(network.backbone, Trunks)
    assert float(network.backbone.std.std()) > 0  # standardised by the photographs' own statistics
    samples = several_networks.plan.predictions.samples(several_networks.env)
    places = {"workspace": several_networks.folder / "ws", "threads": 1, "device": "cpu", "quiet": True}
    result = tag2mask.run("cam", several_networks.folder / "data", **places, **flat(ON_TRUNKS))
    written = tag2mask.predict(
        result.model,
        [sample.image for sample in samples],
        tmp_path,
        device="cpu",
        threads=1,
        quiet=True,
    )
    for sample, file in zip(samples, written, strict=True):
        assert np.array_equal(
            read_mask(file.mask), read_mask(several_networks.plan.predictions.path(several_networks.env, sample.id))
        )


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by keys that are names in Python; lists stay."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}__") if isinstance(value, dict) else {key: value}
    return found


def test_maps_of_the_classifier_cover_the_photograph(several_networks: Made) -> None:
    (cams,) = (
        stage for stage in distinct(several_networks.plan.stages(), several_networks.env) if stage.name == "cams"
    )
    for sample in cams.samples(several_networks.env):
        found = cams.load(several_networks.env, sample.id)  # type: ignore[attr-defined]
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
