"""Raising the version of code raises that of every stage built on it."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import tag2mask.stages
from tag2mask.base.versions import Code
from tag2mask.engine.stage import Stage
from tag2mask.stages.activation_maps import MakeActivationMaps
from tag2mask.stages.difference.train_difference import TrainDifference
from tag2mask.stages.difference.train_dynamic import TrainDynamic
from tag2mask.stages.evaluate import Evaluate
from tag2mask.stages.frozen_features import EarlyFeatures, FrozenFeatures
from tag2mask.stages.masking.train_masking import TrainMasking
from tag2mask.stages.predict import Predict
from tag2mask.stages.retrain import LabelTrainingImages
from tag2mask.stages.segmenter_training import SegmenterTraining
from tag2mask.stages.single_stage.train_single_stage import TrainSingleStage
from tag2mask.stages.superpixel.superpixels import MakeSuperpixels
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.train_segmenter import TrainSegmenter

HEIRS = [TrainMasking, TrainDifference, TrainDynamic, TrainSingleStage]


def stages() -> Iterator[type[Stage]]:
    """All stages of the package."""
    for info in pkgutil.walk_packages(tag2mask.stages.__path__, "tag2mask.stages."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, type) and issubclass(value, Stage) and value.__module__ == info.name:
                yield value


def test_a_stage_alone_has_its_own_number() -> None:
    assert TrainClassifier.full_version() == TrainClassifier.version == 2
    assert TrainSegmenter.full_version() == SegmenterTraining.version == 2


@pytest.mark.parametrize(
    ("base", "heir"),
    [
        *((SegmenterTraining, heir) for heir in HEIRS),
        (Predict, LabelTrainingImages),
        (FrozenFeatures, EarlyFeatures),
    ],
)
def test_the_version_of_a_base_is_its_heirs_too(
    base: type[Stage], heir: type[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert heir.full_version() == [1, {base.__name__: 2}]
    monkeypatch.setattr(base, "version", 7)
    assert heir.full_version() == [1, {base.__name__: 7}]


@pytest.mark.parametrize(
    ("module", "raised", "kept"),
    [
        ("tag2mask.stages.segmenter_inputs", [TrainSegmenter, *HEIRS], [TrainClassifier, MakeActivationMaps]),
        ("tag2mask.stages.segmentation_system", [TrainSegmenter, *HEIRS], [TrainClassifier, Predict]),
        ("tag2mask.stages.views", [TrainClassifier, TrainSegmenter, *HEIRS, FrozenFeatures], [Evaluate]),
        ("tag2mask.engine.training", [TrainClassifier, TrainSegmenter, *HEIRS], [MakeActivationMaps]),
        ("tag2mask.networks.inference", [Predict, LabelTrainingImages, MakeActivationMaps], []),
        ("tag2mask.refine.dense_crf", [Predict, MakeSuperpixels, TrainDynamic], [MakeActivationMaps]),
        ("tag2mask.evidence.superpixel", [MakeSuperpixels], [Predict, TrainSegmenter]),
        ("tag2mask.supervision.online_cams", [TrainSingleStage], [TrainSegmenter, TrainMasking]),
    ],
)
def test_shared_code_raises_what_is_built_on_it_and_nothing_else(
    module: str, raised: list[type[Stage]], kept: list[type[Stage]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home: Any = importlib.import_module(module)
    before = {stage: stage.full_version() for stage in (*raised, *kept)}
    monkeypatch.setattr(home, "CODE", Code(home.CODE.name, 9))
    assert [stage.__name__ for stage in raised if stage.full_version() == before[stage]] == []
    assert [stage.__name__ for stage in kept if stage.full_version() != before[stage]] == []


def test_no_two_codes_have_one_name() -> None:
    codes: dict[str, str] = {}
    for info in pkgutil.walk_packages(tag2mask.__path__, "tag2mask."):
        if info.name.rpartition(".")[2].startswith("_"):
            continue
        code = getattr(importlib.import_module(info.name), "CODE", None)
        if isinstance(code, Code):
            assert code.name not in codes, (info.name, codes[code.name])
            codes[code.name] = info.name
    assert len(codes) > 20


def test_the_own_number_of_every_stage_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(stages())
    assert len(found) > 40
    for stage in found:
        before = stage.full_version()
        with monkeypatch.context() as patch:
            patch.setattr(stage, "version", 99)
            assert stage.full_version() != before, stage.__name__
