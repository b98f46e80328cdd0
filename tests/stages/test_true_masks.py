import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tag2mask.data.masks import MaskFile
from tag2mask.data.samples import Split
from tag2mask.engine.environment import Environment
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError
from tag2mask.stages.true_masks import true_masks
from tests.builders import shapes_environment


def test_masks_are_copied_and_fingerprinted(tmp_path: Path) -> None:
    env, stage = shapes_environment(tmp_path, threads=2), true_masks()
    stage.run(env)
    for sample in env.dataset.train:
        assert sample.mask is not None
        assert np.array_equal(stage.load(env, sample.id), sample.mask.read())
    assert stage.estimate(env).seconds > 0
    first = env.dataset.train.samples[0].mask
    other = env.dataset.train.samples[3].mask
    assert isinstance(first, MaskFile)
    assert isinstance(other, MaskFile)
    before = stage.fingerprint(env)
    first.path.write_bytes(other.path.read_bytes())
    assert true_masks().fingerprint(shapes_environment(tmp_path, threads=2)) != before


def test_a_photograph_without_a_mask_is_named(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path)
    first, *rest = env.dataset.train.samples
    train = Split("train", (dataclasses.replace(first, mask=None), *rest))
    without = Environment(dataclasses.replace(env.dataset, train=train), Workspace(tmp_path / "ws"))
    with pytest.raises(DataError, match=r"shape_00\.png: has no true mask"):
        true_masks().run(without)
