import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.api.model import prediction_settings
from tag2mask.api.predict import predict
from tag2mask.base.settings import canonical
from tag2mask.data.masks import overlay, read_mask
from tag2mask.engine.environment import Runtime
from tag2mask.errors import DataError, WeightsError
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.model_file import save_model
from tag2mask.networks.segmenter import Segmenter
from tag2mask.stages.predict import PredictionSettings, predict_mask
from tests.api.conftest import HEADER, SETTINGS
from tests.builders import write_photographs

RUNTIME = Runtime(device="cpu", threads=1)
MACHINE: dict[str, Any] = {"device": "cpu", "threads": 1}


@pytest.fixture
def model(tmp_path: Path, network: Segmenter) -> Path:
    save_model(tmp_path / "model.safetensors", network, HEADER)
    return tmp_path / "model.safetensors"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs")


def test_masks_and_overlays_are_written(model: Path, photographs: Path, network: Segmenter, tmp_path: Path) -> None:
    written = predict(model, photographs, tmp_path / "out", **MACHINE, quiet=True)
    assert [item.photograph.name for item in written] == ["a.png", "a.bmp", "b.jpg"]
    for item in written:
        image = np.asarray(Image.open(item.photograph))
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
        expected = predict_mask(network, tensor, SETTINGS, RUNTIME.resolved())
        found = read_mask(item.mask)
        assert (found == expected).mean() > 0.99  # another memory layout rounds elsewhere
        shown = np.asarray(Image.open(item.overlay)).astype(int)
        assert np.abs(shown - overlay(image, found)).mean() < 25  # JPEG of noise
    assert written[1].mask == tmp_path / "out" / "masks" / "more" / "a.png"
    assert written[1].overlay == tmp_path / "out" / "overlays" / "more" / "a.jpg"


def test_the_crf_can_be_left_out(model: Path, photographs: Path, tmp_path: Path) -> None:
    masks = {}
    for use_crf in (None, True, False):
        (item,) = predict(model, photographs / "a.png", tmp_path, use_crf=use_crf, **MACHINE, quiet=True)
        masks[use_crf] = read_mask(item.mask)
    assert np.array_equal(masks[None], masks[True])
    assert not np.array_equal(masks[True], masks[False])


def predicted_classes(model: Path, photographs: Path, rows: str) -> dict[str, set[int]]:
    table = photographs.parent / "tags.csv"
    table.write_text(f"image_path,label\n{rows}")
    written = predict(model, photographs, photographs.parent / "out", tags=table, use_crf=False, **MACHINE, quiet=True)
    return {item.photograph.name: set(np.unique(read_mask(item.mask)).tolist()) for item in written}


def test_tags_are_names_or_numbers_and_go_by_place(model: Path, photographs: Path) -> None:
    """Two photographs are called a; each is restricted to its own tags."""
    found = predicted_classes(model, photographs, 'a.png,disc\nmore/a.bmp,2\nmore/b.jpg,"disc,square"\n')
    assert found["a.png"] <= {0, 1}
    assert found["a.bmp"] <= {0, 2}
    assert found["b.jpg"] == {0, 1, 2}
    assert found["a.png"] | found["a.bmp"] == {0, 1, 2}


def test_tags_may_be_found_by_the_name_alone_if_it_is_clear(model: Path, photographs: Path) -> None:
    rows = "a.png,disc\nmore/a.bmp,square\nelsewhere/b.png,\n"
    assert predicted_classes(model, photographs, rows)["b.jpg"] == {0}
    with pytest.raises(DataError, match=r"several rows for .*b\.jpg.*line 4.*line 5"):
        predicted_classes(model, photographs, f"{rows}anywhere/b.png,disc\n")
    with pytest.raises(DataError, match=r"no row for .*b\.jpg"):
        predicted_classes(model, photographs, "a.png,disc\nmore/a.bmp,square\n")
    with pytest.raises(DataError, match=r"line 2.*'cat'.*disc, square"):
        predicted_classes(model, photographs, "a.png,cat\n")


def test_a_classifier_makes_no_masks(tmp_path: Path, photographs: Path) -> None:
    backbone = create_backbone("tf_efficientnet_lite0", block="blocks.1", weights="none")
    path = tmp_path / "classifier.safetensors"
    save_model(path, Classifier(backbone, 2), dataclasses.replace(HEADER, kind="classifier", head={}))
    with pytest.raises(WeightsError, match=r"classifier\.safetensors: .*'classifier' makes no masks"):
        predict(path, photographs, tmp_path / "out", quiet=True)


def test_a_model_file_says_how_it_is_used() -> None:
    assert prediction_settings(HEADER) == SETTINGS
    of_a_stage = dataclasses.replace(HEADER, inference=canonical(SETTINGS.inference))
    assert prediction_settings(of_a_stage) == PredictionSettings(SETTINGS.inference)
