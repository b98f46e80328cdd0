"""One finished run of `cam` on the shapes; tests look at what its stages made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import pytest
from PIL import Image

from tag2mask.data.images import image_size
from tag2mask.data.masks import encode_mask
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import distinct, run_stages
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.engine.stage import Estimate, Stage
from tag2mask.engine.training import TrainingSettings
from tag2mask.methods.cam import CamSettings
from tag2mask.methods.registry import METHODS
from tag2mask.networks.segmenter import HeadSettings
from tag2mask.runs.prepare import prepare
from tag2mask.runs.settings import as_arguments, parse_arguments
from tag2mask.stages.affinity.affinity_masks import AffinityMasks, AffinityMaskSettings, affinity_masks
from tag2mask.stages.affinity.confident_maps import ConfidenceSettings
from tag2mask.stages.affinity.labels import MapCRFSettings
from tag2mask.stages.affinity.train_affinity import AffinitySettings
from tag2mask.stages.affinity.walked_maps import WalkSettings
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.difference.difference_settings import DifferenceNetSettings
from tag2mask.stages.difference.static_refinement import StaticRefinement, StaticSettings, static_refinement
from tag2mask.stages.labels import LabelStage
from tag2mask.stages.saliency_maps import MakeSaliencyMaps, SaliencySettings, saliency_maps
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.views import ViewSettings
from tests.builders import TINY, shapes_environment, write_shapes
from tests.stages.several_networks import Made, planned

S = TypeVar("S", bound=Stage)


class Finished(NamedTuple):
    """A run whose stages are all made."""

    env: Environment
    plan: Plan
    settings: CamSettings

    def stage(self, kind: type[S]) -> S:
        """The plan's stage of a kind."""
        (found,) = (stage for stage in distinct(self.plan.stages(), self.env) if type(stage) is kind)
        return found


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Made once, and changed by no test; photograph shape_05 has no tag."""
    folder = tmp_path_factory.mktemp("finished")
    table = write_shapes(folder / "data") / "tags.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([*rows[:6], rows[6].split(",")[0] + ",", *rows[7:]]) + "\n")
    places = {"data": folder / "data", "workspace": folder / "workspace", "device": "cpu", "threads": 1, "bound": True}
    configuration = parse_arguments(METHODS["cam"], as_arguments({**places, **TINY}))
    env, plan = prepare(configuration, Reporter(quiet=True))
    run_stages(plan.stages(), env)
    return Finished(env, plan, configuration.settings)


class FinishedMasks(NamedTuple):
    """PSA's stages, all made, on the classifier and CAMs of `finished`."""

    env: Environment
    made: AffinityMasks
    settings: AffinityMaskSettings


@pytest.fixture(scope="session")
def finished_masks(finished: Finished) -> FinishedMasks:
    """Made once, and changed by no test."""
    crf = CRFSettings(iterations=2)
    settings = AffinityMaskSettings(
        classifier=finished.settings.classifier,
        cams=finished.settings.cams,
        confidence=ConfidenceSettings(0.2, 1.0, crf),
        affinity=AffinitySettings(
            backbone=BackboneSettings(weights="none", frozen_until="blocks.1"),
            blocks=("blocks.1", "blocks.2", "blocks.4"),
            widths=(4, 6, 8),
            radius=3,
            views=ViewSettings(crop=64, long_side=(48, 80), colour=0.2),
            training=TrainingSettings(epochs=2, batch_size=4, checkpoint_seconds=0),
        ),
        walk=WalkSettings(alpha=1.0, steps=8, long_side=64),
        crf=MapCRFSettings(iterations=2),
    )
    made = affinity_masks(settings)
    for stage in made:
        if not stage.complete(finished.env):
            stage.run(finished.env)
    return FinishedMasks(finished.env, made, settings)


@dataclass(frozen=True)
class BoxSettings:
    """Half the side of the boxes, and a photograph that loses them."""

    half: int
    lost: str = ""


class Boxes(LabelStage):
    """A box of every tagged class, none in the lost photograph."""

    name = "boxes"
    reads = frozenset({"tags"})
    settings: BoxSettings

    def __init__(self, half: int, lost: str = "") -> None:
        super().__init__(BoxSettings(half, lost), "train")

    def open(self, env: Environment) -> Callable[[Sample], bytes]:
        def make(sample: Sample) -> bytes:
            height, width = image_size(sample.image)
            mask = np.zeros((height, width), dtype=np.uint8)
            for position, tag in enumerate(sample.tags if sample.id != self.settings.lost else ()):
                row, column = height // 2, width * (position + 1) // (len(sample.tags) + 1)
                half = self.settings.half
                mask[row - half : row + half, column - half : column + half] = tag
            return encode_mask(mask)

        return make

    def estimate(self, env: Environment) -> Estimate:
        return Estimate(0, 0)


class FinishedPairs(NamedTuple):
    """SSDD's static part on two stages of boxes, all made; shape_04 is the sample that loses a class."""

    env: Environment
    made: StaticRefinement
    settings: StaticSettings


def pair_settings() -> StaticSettings:
    """SSDD's static part in seconds, features kept."""
    return StaticSettings(
        segmenter=SegmenterSettings(
            backbone=BackboneSettings(weights="none", block="blocks.4", frozen_until="blocks.2"),
            head=HeadSettings(kind="dilated", width=12, dilations=(2,), dropout=0.0),
            views=ViewSettings(crop=64, whole=True),
            label_stride=4,
            cache_features=True,
            training=TrainingSettings(epochs=2, batch_size=4, checkpoint_seconds=0),
        ),
        start="pretrained",
        difference=DifferenceNetSettings(width=8, low_block="blocks.0"),
    )


@pytest.fixture(scope="session")
def finished_pairs(tmp_path_factory: pytest.TempPathFactory) -> FinishedPairs:
    """Made once, and changed by no test."""
    env, settings = shapes_environment(tmp_path_factory.mktemp("pairs"), threads=1), pair_settings()
    made = static_refinement(Boxes(8), Boxes(12, lost="shape_04"), None, settings)
    run_with_inputs(made.scores, env)
    return FinishedPairs(env, made, settings)


def run_with_inputs(stage: Stage, env: Environment) -> None:
    """Makes a stage after all that it builds on."""
    for needed in stage.inputs.values():
        run_with_inputs(needed, env)
    if not stage.complete(env):
        stage.run(env)


@pytest.fixture(scope="session")
def saliency(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> MakeSaliencyMaps:
    """Maps of the finished run's photographs that rise from the left border to the right one."""
    folder = tmp_path_factory.mktemp("saliency")
    for sample in finished.env.split("train").samples:
        with Image.open(sample.image) as image:
            width, height = image.size
        ramp = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))
        Image.fromarray(ramp).save(folder / f"{sample.id}.png")
    stage = saliency_maps(SaliencySettings(source="folder", path=str(folder)))
    stage.run(finished.env)
    return stage


@pytest.fixture(scope="session")
def several_networks(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("trunks")
    write_shapes(folder / "data")
    env, plan = planned(folder)
    run_stages(plan.stages(), env)
    return Made(folder, env, plan)
