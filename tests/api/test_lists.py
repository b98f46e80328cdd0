import pytest

import tag2mask
from tag2mask.errors import SettingsError
from tag2mask.methods.registry import METHODS


def test_lists_and_choices() -> None:
    assert [method.name for method in tag2mask.list_methods()] == list(METHODS)
    assert {info.name for info in tag2mask.list_backbones("resnet1?")} >= {"resnet18"}
    with pytest.raises(
        SettingsError, match="choices: cam, sec, dsrg, psa, ssdd, dcp, masking, superpixel, rrm, aalr, supervised"
    ):
        tag2mask.run("cap", "data")
