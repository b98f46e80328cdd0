import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tag2mask.data.layers import LabelMap
from tag2mask.data.masks import MaskFile, read_mask, write_mask
from tag2mask.data.samples import Sample
from tag2mask.errors import DataError
from tag2mask.stages.labels import encode_labels, read_truth
from tag2mask.stages.seeds import MakeSeeds
from tests.builders import shapes_dataset
from tests.stages.conftest import Finished


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return shapes_dataset(tmp_path / "data").train.samples[0]


def test_labels_of_tagged_classes_are_encoded(sample: Sample, tmp_path: Path) -> None:
    one = dataclasses.replace(sample, tags=(2,))
    labels = np.array([[0, 2, 255], [2, 2, 0]], dtype=np.uint8)
    (tmp_path / "mask.png").write_bytes(encode_labels(one, labels))
    assert np.array_equal(read_mask(tmp_path / "mask.png"), labels)
    with pytest.raises(AssertionError, match=r"shape_00: labels \[1\]"):
        encode_labels(one, np.array([[0, 1]], dtype=np.uint8))


def mask_path(sample: Sample) -> Path:
    assert isinstance(sample.mask, MaskFile)
    return sample.mask.path


def test_the_truth_is_the_mask(sample: Sample) -> None:
    assert np.array_equal(read_truth(sample, 2), read_mask(mask_path(sample)))
    assert read_truth(sample, 2).max() == 2


def test_a_truth_that_does_not_fit_is_named(sample: Sample) -> None:
    with pytest.raises(DataError, match=r"shape_00\.png: 2 among the ids, but the last class is 1"):
        read_truth(sample, 1)
    write_mask(mask_path(sample), np.zeros((48, 63), np.uint8))
    with pytest.raises(DataError, match=r"shape_00\.png: 63x48, but its photograph .*shape_00\.png has 64x48"):
        read_truth(sample, 2)
    with pytest.raises(DataError, match=r"shape_00\.png: has no true mask"):
        read_truth(dataclasses.replace(sample, mask=None), 2)


def test_unlabelled_pixels_are_no_class(sample: Sample) -> None:
    write_mask(mask_path(sample), np.full((48, 64), 255, np.uint8))
    assert (read_truth(sample, 2) == 255).all()


def test_the_layer_is_the_mask(finished: Finished) -> None:
    stage, env = finished.stage(MakeSeeds), finished.env
    labels = np.asarray(Image.open(stage.path(env, "shape_00")))
    assert np.array_equal(stage.load(env, "shape_00"), labels)
    (layer,) = stage.layers(env, "shape_00").items()
    assert layer[0] == ""
    assert isinstance(layer[1], LabelMap)
    assert np.array_equal(layer[1].ids, labels)
