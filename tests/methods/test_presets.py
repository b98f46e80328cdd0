from pathlib import Path

import pytest
import yaml

from tag2mask.methods.registry import METHODS
from tag2mask.runs.settings import PRESETS, parse_arguments


@pytest.mark.parametrize("path", sorted(PRESETS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_preset_fits_its_method(path: Path) -> None:
    configuration = parse_arguments(METHODS[path.stem], ["--data", "x", "--config", f"{path.parent.name}/{path.stem}"])
    assert configuration.settings != METHODS[path.stem].settings()


@pytest.mark.parametrize("name", ["small", "demo"])
def test_the_bound_has_the_same_segmenter(name: str) -> None:
    method, bound = (yaml.safe_load((PRESETS / name / f"{kind}.yaml").read_text()) for kind in ("cam", "supervised"))
    shared = {key: method[key] for key in bound}
    assert bound == shared
    assert {"segmenter", "prediction"} <= set(bound)
