"""AALR: RRM with an adaptive affinity loss and a label reassign loss (Zhang et al., ACM MM 2021).

The label reassign loss is this project's own reading: no source gives its formula.
"""

from dataclasses import dataclass, field

from tag2mask.engine.plan import Plan
from tag2mask.methods.rrm import RrmSettings, single_stage
from tag2mask.stages.single_stage.train_single_stage import AdaptiveAffinitySettings, ReassignSettings


@dataclass(frozen=True)
class AalrSettings(RrmSettings):
    """Settings of the method `aalr`: those of `rrm`, and its two losses.

    Args:
        classifier: `classifier`, trained on tags, where `single_stage.start` is "classifier".
        online_cams: the labels of every step, from the network's own CAMs.
        single_stage: where the training starts, and when its segmentation begins.
        dense_energy: RRM's optional loss.
        segmenter: `single_stage`, network and training.
        prediction: `prediction`, masks of the val photographs.
        affinity: the adaptive affinity loss.
        reassign: the label reassign loss, this project's own reading.
    """

    affinity: AdaptiveAffinitySettings = field(default_factory=AdaptiveAffinitySettings)
    reassign: ReassignSettings = field(default_factory=ReassignSettings)


def aalr(settings: AalrSettings) -> Plan:
    """RRM's stages with the losses that are switched on."""
    affinity, reassign = settings.affinity, settings.reassign
    return single_stage(settings, affinity if affinity.enabled else None, reassign if reassign.enabled else None)
