import re

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("package", "other"),
    [
        ("evaluation", "engine"),
        ("engine", "evaluation"),
        *((package, "study") for package in ("engine", "evaluation", "evidence", "methods", "networks", "stages")),
        *(("study", other) for other in ("commands", "methods", "verbs")),
    ],
)
def test_imports_point_one_way(package: str, other: str) -> None:
    sources = sorted((ROOT / "src" / "tag2mask" / package).rglob("*.py"))
    assert sources
    for source in sources:
        found = re.findall(rf"^ *(?:from|import) tag2mask\.{other}\b.*$", source.read_text(), flags=re.MULTILINE)
        assert not found, f"{source}: {found}"
