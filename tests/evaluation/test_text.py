from tag2mask.evaluation.text import percent


def test_percentages() -> None:
    assert percent(0.12345) == "12.3"
    assert percent(1.0) == "100.0"
    assert percent(None) == "-"
