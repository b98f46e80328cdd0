from tag2mask.plurals import plural


def test_a_word_goes_with_its_number() -> None:
    assert [plural(count, "run") for count in (0, 1, 2)] == ["runs", "run", "runs"]
    assert [plural(count, "was", "were") for count in (0, 1, 2)] == ["were", "was", "were"]
