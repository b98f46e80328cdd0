from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from tag2mask.base.settings import FINGERPRINT_AS, LATER, OMIT, UNSEEN, canonical


class Rule(Enum):
    SUM = "sum"
    MAX = "max"


@dataclass(frozen=True)
class Inner:
    rule: Rule = Rule.SUM
    hidden: int = field(default=3, metadata=OMIT)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    path: Path = Path("a/b")
    sizes: tuple[int, ...] = (1, 2)


def test_dataclasses_become_plain_values() -> None:
    assert canonical(Outer()) == {"inner": {"rule": "sum"}, "path": "a/b", "sizes": [1, 2]}


@dataclass(frozen=True)
class Folded:
    word: str = field(default="Aa", metadata={FINGERPRINT_AS: str.lower})


def test_fingerprints_know_of_a_field_what_its_function_gives() -> None:
    assert canonical([Folded()]) == [{"word": "Aa"}]
    assert canonical({"x": [Folded()]}, for_fingerprint=True) == {"x": [{"word": "aa"}]}


@dataclass(frozen=True)
class Grown:
    old: int = 1
    new: tuple[float, ...] = field(default=(1.0,), metadata=LATER)
    part: Inner = field(default_factory=Inner, metadata=LATER)


def test_a_setting_added_later_changes_no_fingerprint_until_it_is_used() -> None:
    assert canonical(Grown(), for_fingerprint=True) == {"old": 1}
    assert canonical(Grown(new=(1.0, 0.5)), for_fingerprint=True) == {"old": 1, "new": [1.0, 0.5]}
    assert canonical(Grown(part=Inner(Rule.MAX)), for_fingerprint=True) == {"old": 1, "part": {"rule": "max"}}
    assert canonical(Grown()) == {"old": 1, "new": [1.0], "part": {"rule": "sum"}}


def test_a_value_without_a_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        canonical({"x": object()})


def test_a_default_that_is_unseen_stays_out_of_records_too() -> None:
    @dataclass(frozen=True)
    class Grown:
        old: int = 1
        later: int = field(default=2, metadata=LATER)
        unseen: tuple[int, ...] = field(default=(), metadata=UNSEEN)

    assert canonical(Grown()) == {"old": 1, "later": 2}
    assert canonical(Grown(), for_fingerprint=True) == {"old": 1}
    assert canonical(Grown(unseen=(3,))) == {"old": 1, "later": 2, "unseen": [3]}
    assert canonical(Grown(unseen=(3,)), for_fingerprint=True) == {"old": 1, "unseen": [3]}
