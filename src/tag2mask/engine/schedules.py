"""Learning-rate schedules as pure functions of the step, so that a resumed training needs no schedule state."""

import math
from dataclasses import dataclass, field
from typing import Literal

from tag2mask.base.settings import LATER
from tag2mask.errors import SettingsError, unknown_choice

SCHEDULES = ("polynomial", "cosine", "constant", "steps")


@dataclass(frozen=True)
class ScheduleSettings:
    """Schedule of the learning rate through a training.

    Args:
        kind: "polynomial" is (1 - t)^power, "cosine" is (1 + cos(pi t)) / 2, "constant" stays; t runs from 0 to 1.
            "steps" multiplies by `step_factor` after every `step_length` steps.
        power: exponent of the polynomial.
        stretch: the schedule is laid out over this many times the training's length; above 1 it never reaches 0.
        warmup_epochs: at first the rate rises linearly over this many epochs.
        warmup_start: share of the full rate that the warm-up starts from.
        step_length: of "steps": training steps between two changes.
        step_factor: of "steps": what the rate is multiplied by.
    """

    kind: Literal["polynomial", "cosine", "constant", "steps"] = "polynomial"
    power: float = 0.9
    stretch: float = 1.0
    warmup_epochs: float = 0.0
    warmup_start: float = 0.01
    step_length: int = field(default=2000, metadata=LATER)
    step_factor: float = field(default=0.1, metadata=LATER)

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise SettingsError(unknown_choice("schedule.kind", self.kind, SCHEDULES))
        if self.step_length < 1 or not 0 < self.step_factor <= 1:
            raise SettingsError("schedule.step_length must be above 0 and step_factor lies above 0 and up to 1")
        if self.stretch < 1:
            raise SettingsError(f"schedule.stretch: {self.stretch} is below 1, the rate would be 0 before the end")
        if self.warmup_epochs < 0 or not 0 <= self.warmup_start <= 1:
            raise SettingsError("schedule.warmup_epochs must not be negative and warmup_start lies between 0 and 1")


def rate_factor(schedule: ScheduleSettings, step: int, steps: int, steps_per_epoch: int) -> float:
    """Factor of the base learning rate at a step.

    Args:
        schedule: the schedule's settings.
        step: steps done so far, 0 at the first.
        steps: steps of the whole training.
        steps_per_epoch: steps of one epoch, the unit of the warm-up.

    Returns:
        factor in [0, 1]; positive at every step of a training.
    """
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return schedule.warmup_start + (1 - schedule.warmup_start) * step / warmup
    if schedule.kind == "steps":
        return schedule.step_factor ** (step // schedule.step_length)
    share = (step - warmup) / max((steps - warmup) * schedule.stretch, 1.0)
    if schedule.kind == "polynomial":
        return (1 - share) ** schedule.power
    if schedule.kind == "cosine":
        return (1 + math.cos(math.pi * share)) / 2
    return 1.0
