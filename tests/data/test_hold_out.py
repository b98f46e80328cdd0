from pathlib import Path

import pytest

from tag2mask.data.hold_out import hold_out
from tag2mask.data.samples import Dataset, Sample, Split
from tag2mask.errors import DataError, SettingsError


def tagged(*tag_tuples: tuple[int, ...]) -> Dataset:
    samples = tuple(Sample(f"{i:03}", Path(f"{i:03}.jpg"), some) for i, some in enumerate(tag_tuples))
    return Dataset(Path("root"), ("ape", "bee", "cat"), Split("train", samples))


def test_hold_out_is_a_seeded_part_of_every_class() -> None:
    data = tagged(*[(1,)] * 40, *[(2,)] * 20, *[(1, 2)] * 10, *[()] * 10, (3,), (2, 3))
    parts = hold_out(data, 0.2, seed=1)
    assert parts.val is not None
    assert parts.val.name == "held-out"
    held, kept = {s.id for s in parts.val}, {s.id for s in parts.train}
    assert held | kept == {s.id for s in data.train}
    assert not held & kept
    for tag, count in ((1, 10), (2, 6), (3, 0)):
        assert sum(tag in sample.tags for sample in parts.val) == count
    assert sum(not sample.tags for sample in parts.val) == 2
    assert [s.id for s in parts.train] == sorted(kept)
    assert hold_out(data, 0.2, seed=1) == parts
    assert hold_out(data, 0.2, seed=2) != parts
    backwards = hold_out(Dataset(data.root, data.classes, Split("train", data.train.samples[::-1])), 0.2, seed=1)
    assert backwards.val is not None
    assert {s.id for s in backwards.val} == held


def test_hold_out_leaves_every_class_something_to_train_on() -> None:
    parts = hold_out(tagged((1,), (1,), (2,), (2,), (3,), (3,)), 0.99, seed=0)
    assert sorted(sample.tags for sample in parts.train) == [(1,), (2,), (3,)]


def test_hold_out_of_too_little_holds_nothing_out() -> None:
    data = tagged((1,), (2,), (3,))
    assert hold_out(data, 0.5, seed=0) is data


def test_hold_out_checks_its_arguments() -> None:
    data = tagged((1,), (1,))
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(SettingsError, match="fraction"):
            hold_out(data, fraction, seed=0)
    with pytest.raises(SettingsError, match="seed -1"):
        hold_out(data, 0.5, seed=-1)
    with pytest.raises(DataError, match="already"):
        hold_out(hold_out(data, 0.5, seed=0), 0.5, seed=0)
