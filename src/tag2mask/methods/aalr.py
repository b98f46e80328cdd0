"""AALR: RRM with an adaptive affinity loss and a label reassign loss (Zhang et al., ACM MM 2021).

The label reassign loss is this project's own reading: no source gives its formula.
"""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.stages.single_stage.single_stage import SingleStagePlanSettings, single_stage
from tag2mask.stages.single_stage.single_stage_settings import AdaptiveAffinitySettings, ReassignSettings


@dataclass(frozen=True)
class AalrSettings(SingleStagePlanSettings):
    """Settings of the method `aalr`: those of `rrm`, and its two losses.

    Args:
        affinity: the adaptive affinity loss.
        reassign: the label reassign loss, this project's own reading.
    """

    affinity: AdaptiveAffinitySettings = field(default_factory=AdaptiveAffinitySettings)
    reassign: ReassignSettings = field(default_factory=ReassignSettings)


def aalr(settings: AalrSettings) -> Plan:
    """RRM's stages with the losses that are switched on."""
    return single_stage(settings, settings.affinity, settings.reassign)
