import dataclasses

from tag2mask.stages.single_stage.single_stage import SingleStagePlanSettings, single_stage
from tag2mask.stages.single_stage.single_stage_settings import (
    AdaptiveAffinitySettings,
    DenseEnergySettings,
    ReassignSettings,
)

SETTINGS = SingleStagePlanSettings()


def test_the_chain() -> None:
    plan = single_stage(SETTINGS)
    names = [stage.name for stage in dataclasses.replace(plan, results={}, pictures={}).stages()]
    assert names == ["classifier", "single_stage", "predictions"]
    assert plan.predictions.inputs["segmenter"] is plan.model


def test_losses_that_are_left_out_or_switched_off_are_none() -> None:
    plain = single_stage(SETTINGS).model.parts
    assert plain.dense_energy is plain.affinity is plain.reassign is None
    energy, affinity, reassign = DenseEnergySettings(enabled=True), AdaptiveAffinitySettings(), ReassignSettings()
    parts = single_stage(dataclasses.replace(SETTINGS, dense_energy=energy), affinity, reassign).model.parts
    assert (parts.dense_energy, parts.affinity, parts.reassign) == (energy, affinity, reassign)
    off = single_stage(
        SETTINGS, dataclasses.replace(affinity, enabled=False), dataclasses.replace(reassign, enabled=False)
    )
    assert off.model.parts == plain
