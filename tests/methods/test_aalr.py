import dataclasses
from pathlib import Path

from tag2mask.methods.aalr import AalrSettings, aalr
from tag2mask.methods.rrm import RrmSettings, rrm
from tag2mask.stages.single_stage.single_stage_settings import AdaptiveAffinitySettings, ReassignSettings
from tests.builders import shapes_environment

NO_AFFINITY, NO_REASSIGN = AdaptiveAffinitySettings(enabled=False), ReassignSettings(enabled=False)


def test_the_chain_is_rrms() -> None:
    ours, theirs = aalr(AalrSettings()), rrm(RrmSettings())
    assert [stage.name for stage in ours.stages()] == [stage.name for stage in theirs.stages()]
    assert list(ours.results) == list(theirs.results)


def test_both_losses_are_switches() -> None:
    settings = AalrSettings(affinity=AdaptiveAffinitySettings(weight=0.2), reassign=ReassignSettings(temperature=0.5))
    parts = aalr(settings).model.parts
    assert parts.affinity is settings.affinity
    assert parts.reassign is settings.reassign
    assert aalr(dataclasses.replace(settings, affinity=NO_AFFINITY)).model.parts.affinity is None
    assert aalr(dataclasses.replace(settings, reassign=NO_REASSIGN)).model.parts.reassign is None


def test_without_both_it_is_rrm(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path)
    neither = AalrSettings(affinity=NO_AFFINITY, reassign=NO_REASSIGN)
    settings = (
        *(neither, dataclasses.replace(neither, reassign=ReassignSettings())),
        *(dataclasses.replace(neither, affinity=AdaptiveAffinitySettings()), AalrSettings()),
    )
    prints = [aalr(one).model.fingerprint(env) for one in settings]
    assert prints[0] == rrm(RrmSettings()).model.fingerprint(env)
    assert len(set(prints)) == 4
