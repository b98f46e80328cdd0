from dataclasses import dataclass, field

from tag2mask.base.settings import OMIT
from tag2mask.engine.fingerprint import fingerprint


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)
    workers: int = field(default=1, metadata=OMIT)


def test_same_value_same_fingerprint() -> None:
    assert fingerprint(Settings()) == fingerprint(Settings())
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_known_value_stays_the_same_between_versions() -> None:
    # A change here makes every workspace's artifacts strangers.
    assert fingerprint({"name": "cams", "version": 1, "x": [0.5, None, True]}) == "a7f28432abb39406"


def test_a_changed_field_changes_it() -> None:
    assert fingerprint(Settings(rate=0.2)) != fingerprint(Settings())
    assert fingerprint(Settings(sizes=(2, 1))) != fingerprint(Settings())


def test_fields_that_cannot_change_results_stay_out() -> None:
    assert fingerprint(Settings(workers=8)) == fingerprint(Settings())
