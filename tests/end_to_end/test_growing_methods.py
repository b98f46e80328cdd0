"""Methods beside `cam`, from end to end, on small shapes and random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tag2mask import ssdd
from tag2mask.cli import main
from tag2mask.data.masks import read_mask
from tag2mask.engine.graph import run_stages
from tag2mask.engine.progress import Reporter
from tag2mask.methods.registry import METHODS
from tag2mask.networks.model_file import load_model
from tag2mask.networks.segmenter import Segmenter
from tag2mask.runs.prepare import prepare
from tag2mask.runs.settings import as_arguments, parse_arguments
from tests.builders import TINY_OF, write_shapes

RESULTS = {
    "sec": ["classifier", "cam_curve", "seeds", "val"],
    "dsrg": ["classifier", "cam_curve", "seeds", "pseudo_labels", "val_first", "retrain_labels", "val"],
    "superpixel": ["classifier", "cam_curve", "seed_curve", "seeds", "pseudo_labels", "val"],
    "psa": ["classifier", "cam_curve", "cam_labels", "walked_labels", "pseudo_labels", "val"],
    "ssdd": [
        "classifier",
        "cam_curve",
        "cam_labels",
        "walked_labels",
        "crf_labels",
        "seeds",
        "differences",
        "pseudo_labels",
        "val",
    ],
    "dcp": [
        "classifier",
        "cam_curve",
        "patterns",
        "pattern_labels",
        "pseudo_labels",
        "val_first",
        "retrain_labels",
        "val",
    ],
    "masking": ["classifier", "cam_curve", "saliency", "val"],
    "rrm": ["classifier", "pseudo_labels", "val"],
    "aalr": ["classifier", "pseudo_labels", "val"],
}
UNLIKE_MASKS = {"classifier", "cam_curve", "seed_curve", "differences", "patterns", "saliency"}
"""Results that have no mIoU."""
GROWING = ["dsrg", "superpixel"]
ONLINE = {"dsrg": "grown", "superpixel": "grown", "ssdd": "dynamic", "aalr": "online label"}
"""Methods whose labels change at every step, and the column that shows what they came to."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, settings, and a finished run of each method in one workspace."""
    folder = tmp_path_factory.mktemp("growing")
    write_shapes(folder / "data")
    for method in RESULTS:
        (folder / f"{method}.yaml").write_text(yaml.safe_dump(TINY_OF[method]))
        assert main(words(folder, method)) == 0
    return folder


def words(folder: Path, method: str, *more: str, workspace: str = "ws") -> list[str]:
    places = ["--data", str(folder / "data"), "--workspace", str(folder / workspace), "--threads", "1"]
    return ["run", method, "--config", str(folder / f"{method}.yaml"), *places, *more]


def run_folder(folder: Path, method: str) -> Path:
    (found,) = (folder / "ws" / "runs").glob(f"{method}-*")
    return found


def stage_folder(home: Path, method: str, name: str) -> Path:
    """The stage's folder of a method's run; of several the first one made."""
    stages = json.loads((run_folder(home, method) / "run.json").read_text())["stages"]
    return home / "ws" / "stages" / next(stage["folder"] for stage in stages if stage["name"] == name)


@pytest.mark.parametrize("method", RESULTS)
def test_a_run_leaves_figures_masks_and_a_report(home: Path, method: str) -> None:
    folder = run_folder(home, method)
    content = json.loads((folder / "run.json").read_text())
    assert list(content["metrics"]) == RESULTS[method]
    for name in set(RESULTS[method]) - UNLIKE_MASKS:
        assert 0 <= content["metrics"][name]["mean_iou"] <= 1
    for sample in ("shape_06", "shape_07", "shape_08"):
        mask = read_mask(folder / content["masks"] / f"{sample}.png")
        assert mask.shape == np.asarray(Image.open(home / "data" / "JPEGImages" / f"{sample}.png")).shape[:2]
    assert (folder / "report.html").is_file()


def test_methods_share_what_they_have_in_common(home: Path) -> None:
    """But for the classifier with dilated blocks, and features of a trunk that a single stage goes on from."""
    for name in ("classifier", "cams", "frozen_features"):
        assert len(list((home / "ws" / "stages").glob(f"{name}-*"))) == 2


@pytest.mark.parametrize("method", GROWING)
def test_labels_grow_from_the_seeds(home: Path, method: str) -> None:
    """Grown labels hold every seed the grid sees, more pixels than the seeds, and tagged classes alone."""
    grown = sorted((stage_folder(home, method, "grown_labels") / "items").iterdir())
    name = {"dsrg": "cue_seeds", "superpixel": "superpixel_seeds"}[method]
    labelled = {"seeds": 0, "grown": 0}
    for path in grown:
        seeds = read_mask(stage_folder(home, method, name) / "items" / path.name)
        labelled["seeds"] += int((seeds != 255).sum())
        labelled["grown"] += int((read_mask(path) != 255).sum())
    assert labelled["grown"] > 1.05 * labelled["seeds"]


@pytest.mark.parametrize("method", GROWING)
def test_growth_is_kept_after_every_epoch_and_drawn(home: Path, method: str) -> None:
    growth = stage_folder(home, method, "segmenter") / "growth"
    assert sorted(path.name for path in growth.iterdir()) == ["001", "002"]
    last = {path.name: read_mask(path) for path in (growth / "002").iterdir()}
    assert len(last) == 6
    for name, mask in last.items():
        # The strip's last picture is what the trained network makes of the photograph.
        assert np.array_equal(mask, read_mask(stage_folder(home, method, "grown_labels") / "items" / name))
    assert "seeds growing over epochs" in (run_folder(home, method) / "report.html").read_text()
    assert (run_folder(home, method) / "pictures" / "seeds_growing_over_epochs.jpg").is_file()


def test_networks_of_difference_detection_are_handed_over(home: Path) -> None:
    """Any pair of masks is refined with what a run leaves: the networks themselves, not copies of something else."""
    folder = run_folder(home, "ssdd")
    stage = stage_folder(home, "ssdd", "difference_net")
    for name in ("model.safetensors", "difference.safetensors"):
        assert (folder / "static" / name).read_bytes() == (stage / name).read_bytes()
    segmenter, _ = load_model(folder / "static" / "model.safetensors")
    assert isinstance(segmenter, Segmenter)
    file = folder / "static" / "difference.safetensors"
    network, known = ssdd.load_difference_nets(file)["difference"], ssdd.read_difference_settings(file)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert (known["label_stride"], known["low_block"]) == (4, "blocks.1")
    features = ssdd.image_features(segmenter, images, label_stride=known["label_stride"], low_block=known["low_block"])
    assert features.high.shape[2:] == (16, 16)
    masks = np.random.default_rng(0).integers(0, 3, (2, 2, 48, 40), dtype=np.uint8)
    refined = ssdd.refine(features, masks[0], masks[1], network)
    assert refined.shape == (2, 48, 40)
    assert ((refined == masks[0]) | (refined == masks[1])).all()
    assert (refined != masks[0]).any()
    assert len(ssdd.load_difference_nets(folder / "dynamic" / "difference.safetensors")) == 2


def test_the_report_shows_difference_maps_and_training_masks(home: Path) -> None:
    folder = run_folder(home, "ssdd")
    report = (folder / "report.html").read_text()
    for title in ("PSA (before)", "predicted to differ from PSA", "CRF (after)", "predicted to differ from CRF"):
        assert f'"{title}"' in report
    assert "training masks over epochs" in report
    assert (folder / "pictures" / "training_masks_over_epochs.jpg").is_file()


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("dsrg", {"growing.enabled": False}),
    ("dsrg", {"growing.grow_on": "softmax"}),
    ("dsrg", {"growing.foreground_threshold": 0.9}),
    ("dsrg", {"boundary": False}),
    ("dsrg", {"online_crf.unary": "flat"}),
    ("dsrg", {"retrain.enabled": False}),
    ("dsrg", {"retrain.from_first": False}),
    ("dsrg", {"retrain.labels.restrict_to_tags": False}),
    ("dsrg", {"seeds.background": "cam"}),
    ("sec", {"expansion.enabled": False}),
    ("sec", {"expansion.present_decay": 0.5}),
    ("sec", {"boundary": False}),
    ("superpixel", {"growing.enabled": False}),
    ("superpixel", {"growing.foreground_threshold": 0.9}),
    ("superpixel", {"superpixels.tau": 0.1}),
    ("superpixel", {"superpixels.highest_first": True}),
    ("superpixel", {"seeds.foreground_threshold": 0.8}),
    ("psa", {"train_on": "walk"}),
    ("psa", {"affinity.radius": 2}),
    ("psa", {"walk.steps": 64}),
    ("psa", {"walk.alpha": 0.5}),
    ("psa", {"confidence.background_low_alpha": 0.25}),
    ("ssdd", {"stages": "static"}),
    ("ssdd", {"stages": "dynamic"}),
    ("ssdd", {"static.seeds.bias": -1.0}),
    ("ssdd", {"static.difference.low_level": False}),
    ("ssdd", {"static.start": "classifier"}),
    ("ssdd", {"dynamic.start": "classifier"}),
    ("ssdd", {"dynamic.alpha": 1.0}),
    ("ssdd", {"dynamic.pair.bias": -1.0}),
    ("ssdd", {"dynamic.second_pair": "ssdd2"}),
    ("ssdd", {"dynamic.difference.low_level": False}),
    ("dcp", {"patterns.block": "blocks.3"}),
    ("dcp", {"patterns.photographs_per_class": 1}),
    ("dcp", {"retrain.enabled": False}),
    ("masking", {"attention.enabled": False}),
    ("masking", {"attention.paths": 1}),
    ("masking", {"classifier.head.dilations": []}),
    ("masking", {"saliency_labels.refine": False}),
    ("masking", {"saliency.source": "truth"}),
    ("rrm", {"single_stage.start": "pretrained"}),
    ("rrm", {"online_cams.share": 0.9}),
    ("rrm", {"dense_energy.enabled": True, "dense_energy.stride": 4, "dense_energy.weight": 1e-3}),
    ("aalr", {"affinity.enabled": False}),
    ("aalr", {"reassign.enabled": False}),
]


@pytest.mark.parametrize(("method", "changes"), CHANGES, ids=lambda value: str(value))
def test_every_switch_changes_the_model(home: Path, method: str, changes: dict[str, Any]) -> None:
    given = {"data": home / "data", "workspace": home / "ws", "threads": 1}
    configuration = parse_arguments(
        METHODS[method], ["--config", str(home / f"{method}.yaml"), *as_arguments({**given, **changes})]
    )
    env, plan = prepare(configuration, Reporter(quiet=True))
    run_stages([plan.model, plan.predictions], env)
    before = json.loads((run_folder(home, method) / "run.json").read_text())["model"]
    other = plan.model.model_path(env).read_bytes()
    assert other != (run_folder(home, method) / before).read_bytes()


@pytest.mark.parametrize("method", ONLINE)
def test_photographs_without_masks_are_enough(tmp_path: Path, method: str) -> None:
    """Grown labels are shown although there is no truth that they could be held against."""
    write_shapes(tmp_path / "data", masks=False)
    (tmp_path / f"{method}.yaml").write_text(yaml.safe_dump(TINY_OF[method]))
    assert main(words(tmp_path, method)) == 0
    folder = run_folder(tmp_path, method)
    assert list(json.loads((folder / "run.json").read_text())["metrics"]) == ["classifier"]
    assert len(list((stage_folder(tmp_path, method, "grown_labels") / "items").iterdir())) == 6
    assert f'"{ONLINE[method]}"' in (folder / "report.html").read_text()
