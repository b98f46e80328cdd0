import os

from tag2mask.base.processors import cpu_count


def test_cpu_count() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
