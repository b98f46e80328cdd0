"""A small segmenter for the tests of verbs."""

from typing import Any

import pytest
import torch

from tag2mask.base.settings import canonical
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.inference import InferenceSettings
from tag2mask.networks.model_file import ModelHeader
from tag2mask.networks.segmenter import HeadSettings, Segmenter
from tag2mask.stages.crf import CRFSettings
from tag2mask.stages.predict import PredictionSettings

HEAD = HeadSettings(width=8, dilations=(2,))
SETTINGS = PredictionSettings(InferenceSettings(long_side=32), use_crf=True, crf=CRFSettings(iterations=1))
BACKBONE = {"name": "tf_efficientnet_lite0", "output_stride": 16, "block": "blocks.1"}
HEADER = ModelHeader(
    kind="segmenter",
    classes=("disc", "square"),
    backbone=BACKBONE,
    head=canonical(HEAD),
    inference=canonical(SETTINGS),
    weights={},
    training={},
)


@pytest.fixture(scope="session")
def network() -> Segmenter:
    torch.manual_seed(0)
    backbone = create_backbone("tf_efficientnet_lite0", block="blocks.1", weights="none")
    made = Segmenter(backbone, 3, HEAD)
    made.eval()
    last: Any = made.head[-1]  # type: ignore[index]
    # Scores around zero that differ clearly, so that every class wins somewhere.
    torch.nn.init.normal_(last.weight)
    with torch.no_grad():
        last.bias -= made(torch.rand(4, 3, 32, 32) * 2 - 1).mean((0, 2, 3))
    return made
