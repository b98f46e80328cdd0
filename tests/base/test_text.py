import pytest

from tag2mask.base.text import duration, percent, plural


def test_a_word_goes_with_its_number() -> None:
    assert [plural(count, "run") for count in (0, 1, 2)] == ["runs", "run", "runs"]
    assert [plural(count, "was", "were") for count in (0, 1, 2)] == ["were", "was", "were"]


@pytest.mark.parametrize(("seconds", "text"), [(42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percentages() -> None:
    assert percent(0.12345) == "12.3"
    assert percent(1.0) == "100.0"
    assert percent(None) == "-"
