import pytest
import torch
from torch import nn

from tag2mask.engine.fingerprint import fingerprint
from tag2mask.errors import SettingsError
from tag2mask.networks.weights import WEIGHT_SOURCES
from tag2mask.stages.backbone import BackboneSettings, backbone_and_head

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
