from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tag2mask.data.samples import Sample
from tag2mask.engine.training import TrainingSettings
from tag2mask.errors import WorkspaceError
from tag2mask.stages.label_strips import LabelStrips
from tag2mask.stages.train_classifier import ClassifierSettings, TrainClassifier
from tag2mask.stages.views import load_image
from tests.builders import shapes_environment

STRIPS = LabelStrips(start="before", file="strips.jpg")


def stage_of(epochs: int) -> TrainClassifier:
    """Any training of this many epochs."""
    return TrainClassifier(ClassifierSettings(training=TrainingSettings(epochs=epochs, batch_size=4)))


def labels_of(value: int) -> Any:
    def make(sample: Sample) -> Tensor:
        return torch.full(load_image(sample).shape[1:], value, dtype=torch.uint8)

    return make


@pytest.mark.parametrize("epochs", [1, 2, 8, 100])
def test_of_many_epochs_some_are_kept(tmp_path: Path, epochs: int) -> None:
    env, stage = shapes_environment(tmp_path), stage_of(epochs)
    asked = []
    for epoch in range(epochs):

        def make(epoch: int = epoch) -> Any:
            asked.append(epoch)
            return labels_of(1)

        STRIPS.keep(stage, env, epoch, make)
    folders = sorted(int(path.name) for path in (stage.folder(env) / "growth").iterdir())
    assert {1, epochs} <= set(folders)
    assert len(folders) <= 8
    assert [epoch + 1 for epoch in asked] == folders
    assert all(len(list((stage.folder(env) / "growth" / f"{number:03d}").iterdir())) == 6 for number in folders)


def test_strips_are_drawn_and_a_missing_epoch_is_named(tmp_path: Path) -> None:
    env, stage = shapes_environment(tmp_path), stage_of(2)
    for epoch in range(2):
        STRIPS.keep(stage, env, epoch, lambda: labels_of(1))
    (path,) = STRIPS.draw(stage, env, tmp_path, labels_of(255))
    assert path == tmp_path / "strips.jpg"
    assert path.stat().st_size > 1000
    (stage.folder(env) / "growth" / "002" / "shape_00.png").unlink()
    with pytest.raises(WorkspaceError, match=r"002.shape_00\.png"):
        STRIPS.draw(stage, env, tmp_path, labels_of(255))
