"""Whole studies that take seconds: random weights, tiny photographs."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tag2mask.api.study_dcp import study_dcp
from tag2mask.data.datasets import open_dataset
from tag2mask.engine.environment import Environment, Runtime
from tag2mask.engine.workspace import Workspace
from tag2mask.methods.registry import find_method
from tag2mask.runs.settings import parse_arguments
from tag2mask.stages.activation_maps import ActivationMapSettings
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.patterns.class_patterns import PatternSettings
from tag2mask.stages.patterns.pattern_labels import PatternRefinementSettings
from tag2mask.stages.train_classifier import ClassifierSettings
from tag2mask.study.dcp.graph import DcpStudy, StudySettings, build_study
from tag2mask.study.page import StudyResult
from tests.builders import TINY_OF, write_shapes

BLOCKS = ("blocks.2", "blocks.4")


CLASSIFIER = ClassifierSettings(backbone=BackboneSettings(output_stride=32, weights="none"))


@dataclass(frozen=True)
class Done:
    """A study that was run, in a folder that has data, workspace and what came of it."""

    root: Path
    result: StudyResult

    def reopened(self) -> tuple[DcpStudy, Environment]:
        """The graph that was run, made again."""
        words = ["--config", str(self.root / "tiny.yaml"), "--data", str(self.root / "data")]
        configuration = parse_arguments(find_method("dcp"), words)
        method, env = configuration.settings, opened(self.root)
        settings = StudySettings(method.classifier, method.cams, method.patterns.at(*BLOCKS), method.refinement)
        return build_study(settings, env), env


def tiny_settings(*blocks: str) -> StudySettings:
    """Settings of a graph that is not run."""
    patterns = PatternSettings(blocks=blocks or BLOCKS)
    return StudySettings(CLASSIFIER, ActivationMapSettings(), patterns, PatternRefinementSettings())


def opened(root: Path) -> Environment:
    """The photographs in a folder's ``data``, and its ``workspace``."""
    return Environment(open_dataset(root / "data"), Workspace(root / "workspace"), Runtime(device="cpu", threads=1))


def tiny_study(root: Path, *, quiet: bool = True) -> Done:
    """Runs the study of a folder's ``data``, or what is missing of it."""
    config = root / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY_OF["dcp"] | {"device": "cpu", "threads": 1}))
    result = study_dcp(
        root / "data",
        workspace=root / "workspace",
        out=root / "out",
        config=config,
        blocks=BLOCKS,
        photographs=2,
        quiet=quiet,
    )
    return Done(root, result)


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The study of six shapes."""
    root = tmp_path_factory.mktemp("dcp-study")
    write_shapes(root / "data")
    return tiny_study(root)


@pytest.fixture(scope="session")
def unmasked(done: Done, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The same photographs with tags alone; what never read masks is there already."""
    root = tmp_path_factory.mktemp("dcp-study-unmasked")
    write_shapes(root / "data", masks=False)
    shutil.copytree(done.root / "workspace" / "stages", root / "workspace" / "stages")
    return tiny_study(root)
