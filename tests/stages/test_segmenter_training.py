import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tag2mask.errors import SettingsError
from tag2mask.networks.model_file import read_header
from tag2mask.stages.difference.difference_settings import DifferenceNetSettings
from tag2mask.stages.difference.train_difference import TrainDifference
from tag2mask.stages.masking.train_masking import AttentionSettings, TrainMasking
from tag2mask.stages.seeds import RefineSeeds
from tag2mask.stages.train_segmenter import train_segmenter
from tests.stages.conftest import Boxes, Finished
from tests.stages.segmenters import segmenter, uncached


def test_training_with_cached_features_comes_to_the_same_network(finished: Finished) -> None:
    env, plain = finished.env, uncached(finished)
    plain.run(env)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores, expected = segmenter(finished).load(env)(images), plain.load(env)(images)
        start: Any = segmenter(finished).system(env).eval()
        learnt = (expected - start.network(images)).abs().max()
    # Half precision in the features grows with every step of a training, but stays small beside what is learnt.
    assert float((scores - expected).abs().max()) < 0.05 * float(learnt)


def test_the_model_file_says_what_it_is(finished: Finished) -> None:
    stage, env = segmenter(finished), finished.env
    header = read_header(stage.model_path(env))
    assert (header.kind, header.classes) == ("segmenter", ("disc", "square"))
    assert header.backbone == {"name": "tf_efficientnet_lite0", "output_stride": 16, "block": "blocks.4"}
    assert header.head["width"] == 16
    assert header.inference["long_side"] == 64
    assert stage.load(env).head[-1].out_channels == 3  # type: ignore[index]
    assert all(not sample.tags and sample.mask is None for sample in stage.samples(env))


def test_a_training_can_go_on_from_another(finished: Finished) -> None:
    env, first = finished.env, segmenter(finished)
    labels = finished.stage(RefineSeeds)
    second = train_segmenter(labels, first.settings, start=first)
    assert second.fingerprint(env) != first.fingerprint(env)
    learnt, begun = first.load(env).state_dict(), second.system(env).network.state_dict()
    for name, value in learnt.items():
        assert torch.equal(value, begun[name])
    other = dataclasses.replace(first.settings, head=dataclasses.replace(first.settings.head, width=8))
    with pytest.raises(SettingsError, match=r"retrain\.segmenter: backbone and head .*from_first false"):
        train_segmenter(labels, other, start=first)


def test_without_growing_nothing_is_kept_of_epochs(finished: Finished, tmp_path: Path) -> None:
    stage = segmenter(finished)
    assert stage.strips is None
    assert not (stage.folder(finished.env) / "growth").exists()
    assert stage.draw(finished.env, tmp_path) == []


def test_fixed_labels_come_back_as_the_grid_sees_them(finished: Finished) -> None:
    """What a supervision that changes nothing makes of a photograph is its own labels, at the grid's resolution."""
    env, stage = finished.env, segmenter(finished)
    labels = stage.online_labels(stage.trained_system(env), env)
    for sample in stage.samples(env):
        own = torch.from_numpy(stage.labels.load(env, sample.id))
        made = labels(sample)
        assert made.shape == own.shape
        assert float((made == own).float().mean()) > 0.8
        assert set(made.unique().tolist()) <= set(own.unique().tolist())


def test_settings_of_another_training_are_told(finished: Finished) -> None:
    """In Python a training can be handed more settings than it has; none is ignored without a word."""
    plain = finished.settings.segmenter
    boxes, attention = Boxes(8), AttentionSettings(enabled=False)
    TrainMasking(boxes, dataclasses.replace(plain, cache_features=False, scales=(1.0, 0.5)), attention, None)
    with pytest.raises(SettingsError, match=r"segmenter\.loss: the stage 'segmenter_masking' has no such setting"):
        TrainMasking(boxes, dataclasses.replace(plain, loss="seed"), attention, None)
    paired = dataclasses.replace(plain, cache_features=False, scales=(1.0, 0.5))
    with pytest.raises(SettingsError, match=r"segmenter\.scales: the stage 'difference_net'"):
        TrainDifference(boxes, Boxes(9), paired, DifferenceNetSettings(width=4, low_level=False))  # type: ignore[arg-type]
