"""RRM: reliable regions of online CAMs, in one stage (Zhang et al., AAAI 2020)."""

from dataclasses import dataclass

from tag2mask.engine.plan import Plan
from tag2mask.stages.single_stage.single_stage import SingleStagePlanSettings, single_stage


@dataclass(frozen=True)
class RrmSettings(SingleStagePlanSettings):
    """Settings of the method `rrm`: those of its single stage, and no more."""


def rrm(settings: RrmSettings) -> Plan:
    """Classifier, and one training whose segmenter learns from the CAMs of its own backbone."""
    return single_stage(settings)
