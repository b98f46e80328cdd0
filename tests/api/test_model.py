from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tag2mask
from tag2mask.api.model import Model, as_image
from tag2mask.data.masks import read_mask
from tag2mask.errors import DataError, SettingsError, WeightsError
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.model_file import ModelHeader, save_model
from tag2mask.networks.segmenter import Segmenter
from tests.api.conftest import BACKBONE, HEADER

CLASSIFIER = ModelHeader("classifier", ("disc", "square"), BACKBONE, {}, {}, {}, {})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, network: Segmenter) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, network, HEADER)
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> Model:
    return tag2mask.load_model(file, device="cpu", threads=2)


@pytest.fixture(scope="module")
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def test_a_record_of_one_image(model: Model, array: np.ndarray) -> None:
    found = model.predict(array)
    assert found.classes == ("background", "disc", "square")
    assert found.mask.shape == (40, 56)
    assert found.mask.dtype == np.uint8
    assert found.probabilities.shape == (3, 40, 56)
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(found.mask, found.probabilities.argmax(0))
    assert len(np.unique(found.mask)) > 1
    assert "segmenter of 2 classes" in repr(model)


def test_an_image_may_be_given_in_any_way(model: Model, array: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(array).save(tmp_path / "image.png")
    ways: list[Any] = [
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        Image.fromarray(array),
        torch.from_numpy(array).permute(2, 0, 1),
        np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
    ]
    expected = model.predict(array)
    for way in ways:
        assert np.array_equal(model.predict(way).probabilities, expected.probabilities)
    grey = as_image(array[..., 0])
    assert np.array_equal(grey, np.repeat(array[..., :1], 3, axis=2))


def test_several_images_are_those_one_by_one(model: Model, array: np.ndarray) -> None:
    images: list[Any] = [array, array[:30], array[:, :20], array[::-1]]
    several = model.predict(images, [["disc"], None, ["square"], []])
    for image, tags, found in zip(images, [["disc"], None, ["square"], []], several, strict=True):
        assert np.array_equal(found.mask, model.predict(np.ascontiguousarray(image), tags).mask)
    with pytest.raises(SettingsError, match="1 lists for 4 images"):
        model.predict(images, [["disc"]])


def test_tags_restrict_the_mask(model: Model, array: np.ndarray) -> None:
    found = model.predict(array, tags=["square"])
    assert set(np.unique(found.mask)) <= {0, 2}
    assert not found.probabilities[1].any()
    assert not model.predict(array, tags=[]).mask.any()
    with pytest.raises(DataError, match="bird"):
        model.predict(array, tags=["bird"])


def test_it_makes_the_masks_that_the_verb_writes(file: Path, model: Model, array: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(array).save(tmp_path / "image.png")
    for use_crf in (True, False):
        out = tmp_path / f"out{use_crf}"
        machine: dict[str, Any] = {"device": "cpu", "threads": 1}
        (written,) = tag2mask.predict(file, tmp_path / "image.png", out, use_crf=use_crf, quiet=True, **machine)
        assert np.array_equal(read_mask(written.mask), model.predict(array, use_crf=use_crf).mask)


def test_nothing_is_written(model: Model, array: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model.predict(array)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(4, 4, 2), (0, 4, 3), (4,), (1, 4, 4, 3)])
def test_other_arrays_are_refused(model: Model, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="an image must be uint8"):
        model.predict(np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match="not float32"):
        model.predict(np.zeros((4, 4, 3), np.float32))


def test_a_classifier_makes_no_masks(tmp_path: Path, array: np.ndarray) -> None:
    network = Classifier(create_backbone("tf_efficientnet_lite0", block="blocks.1", weights="none"), 2)
    save_model(tmp_path / "c.safetensors", network, CLASSIFIER)
    with pytest.raises(WeightsError, match=r"c\.safetensors: a model of kind 'classifier' makes no masks"):
        tag2mask.load_model(tmp_path / "c.safetensors", device="cpu").predict(array)
    with pytest.raises(WeightsError, match="missing"):
        tag2mask.load_model(tmp_path / "missing.safetensors")
