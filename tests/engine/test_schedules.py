import math

import pytest

from tag2mask.engine.schedules import ScheduleSettings, rate_factor
from tag2mask.errors import SettingsError


def factors(schedule: ScheduleSettings, steps: int = 100, per_epoch: int = 10) -> list[float]:
    return [rate_factor(schedule, step, steps, per_epoch) for step in range(steps)]


def test_polynomial_is_deeplabs() -> None:
    assert factors(ScheduleSettings("polynomial", power=0.9)) == pytest.approx(
        [(1 - s / 100) ** 0.9 for s in range(100)]
    )


def test_cosine() -> None:
    expected = [(1 + math.cos(math.pi * s / 120)) / 2 for s in range(100)]
    assert factors(ScheduleSettings("cosine", stretch=1.2)) == pytest.approx(expected)


def test_constant_with_warm_up() -> None:
    values = factors(ScheduleSettings("constant", warmup_epochs=2, warmup_start=0.1))
    assert values[0] == pytest.approx(0.1)
    assert values[10] == pytest.approx(0.55)
    assert values[20:] == [1.0] * 80


def test_steps_divide_the_rate_after_so_many_steps() -> None:
    values = factors(ScheduleSettings("steps", step_length=40, step_factor=0.1))
    assert values == pytest.approx([1.0] * 40 + [0.1] * 40 + [0.01] * 20)


@pytest.mark.parametrize("kind", ["polynomial", "cosine", "constant", "steps"])
def test_positive_at_every_step_and_never_above_one(kind: str) -> None:
    for value in factors(ScheduleSettings(kind, warmup_epochs=1)):  # type: ignore[arg-type]
        assert 0 < value <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "linear"},
        {"stretch": 0.5},
        {"warmup_epochs": -1.0},
        {"warmup_start": 2.0},
        {"step_length": 0},
        {"step_factor": 0.0},
    ],
)
def test_impossible_values_are_named(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        ScheduleSettings(**wrong)
