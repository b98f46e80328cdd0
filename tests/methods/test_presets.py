from pathlib import Path

import pytest

from tag2mask.methods.registry import METHODS
from tag2mask.runs.presets import PRESETS, resolve
from tag2mask.runs.settings import parse_arguments, setting_names

EVERYTHING = {name for method in METHODS.values() for name in setting_names(method)}


@pytest.mark.parametrize("path", sorted(PRESETS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_preset_fits_its_method(path: Path) -> None:
    configuration = parse_arguments(METHODS[path.stem], ["--data", "x", "--config", f"{path.parent.name}/{path.stem}"])
    assert configuration.settings != METHODS[path.stem].settings()


@pytest.mark.parametrize("name", ["small", "demo"])
def test_the_bound_has_the_same_segmenter(name: str) -> None:
    bound = resolve(PRESETS / name / "supervised.yaml", setting_names(METHODS["supervised"]), EVERYTHING)
    method = resolve(PRESETS / name / "cam.yaml", setting_names(METHODS["cam"]), EVERYTHING)
    shared = {key: method[key] for key in bound}
    assert bound == shared
    assert {"segmenter", "prediction"} <= set(bound)
