import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tag2mask.data.masks import read_mask
from tag2mask.engine.environment import Environment
from tag2mask.engine.logs import read_log
from tag2mask.engine.system import Position
from tag2mask.engine.training import Trainer
from tag2mask.errors import SettingsError
from tag2mask.networks.inference import normalise
from tag2mask.networks.model_file import load_model
from tag2mask.stages.masking.refined_saliency import SaliencyLabelSettings, saliency_labels
from tag2mask.stages.masking.train_masking import (
    AttentionSettings,
    MaskingSystem,
    Renormalise,
    TrainMasking,
    train_masking,
)
from tag2mask.stages.saliency_maps import SaliencySettings, saliency_maps
from tag2mask.stages.segmentation_system import own_labels
from tag2mask.stages.train_classifier import TrainClassifier
from tag2mask.stages.views import ViewSettings
from tests.stages.conftest import Finished, run_with_inputs

ATTENTION = AttentionSettings(side=48)
POSITION = Position(3, 10, 0, 0)


@pytest.fixture(scope="module")
def folder(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saliency maps: the shapes themselves."""
    maps = tmp_path_factory.mktemp("saliency")
    for path in (finished.env.dataset.root / "SegmentationClass").glob("*.png"):
        Image.fromarray(((read_mask(path) > 0) * 255).astype(np.uint8)).save(maps / path.name)
    return maps


def stage_of(
    finished: Finished, folder: Path, attention: AttentionSettings = ATTENTION, **changes: Any
) -> TrainMasking:
    saliency = saliency_maps(SaliencySettings("folder", str(folder)))
    labels = saliency_labels(saliency, None, SaliencyLabelSettings(refine=False))
    settings = dataclasses.replace(finished.settings.segmenter, **changes)
    stage = train_masking(labels, settings, attention, finished.stage(TrainClassifier))
    for needed in stage.inputs.values():
        run_with_inputs(needed, finished.env)
    return stage


@pytest.fixture(scope="module")
def trained(finished: Finished, folder: Path) -> TrainMasking:
    stage = stage_of(finished, folder)
    stage.run(finished.env)
    return stage


@pytest.fixture(scope="module")
def system(finished: Finished, trained: TrainMasking) -> MaskingSystem:
    """Before its first step, in evaluation mode; changed by no test."""
    torch.manual_seed(0)
    return trained.system(finished.env).eval()


def batch_of(stage: TrainMasking, env: Environment, count: int = 3) -> dict[str, Any]:
    load, samples = stage.open(env), stage.samples(env)[:count]
    examples = [load(sample, 0) for sample in samples]
    stacked = {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
    return {"id": [sample.id for sample in samples], **stacked}


def test_both_losses_are_learnt_from(finished: Finished, trained: TrainMasking) -> None:
    lines = read_log(trained.folder(finished.env))
    assert len(lines) == 2
    assert all(line["attention"] > 0 for line in lines)
    assert lines[1]["saliency"] < lines[0]["saliency"]
    network, header = load_model(trained.model_path(finished.env))
    assert header.kind == "segmenter"
    assert "folder" in header.saliency
    assert {name.split(".")[0] for name in network.state_dict()} == {"backbone", "head"}


def test_training_leaves_every_bit_of_the_classifier(finished: Finished, folder: Path) -> None:
    """Weights and batch norm's statistics, in the file and in the network that was looking on."""
    env = finished.env
    stage = stage_of(finished, folder, dataclasses.replace(ATTENTION, paths=1))
    classifier = finished.stage(TrainClassifier)
    before, content = classifier.load(env).state_dict(), classifier.model_path(env).read_bytes()
    seen: list[MaskingSystem] = []

    class Watched(TrainMasking):
        def system(self, env: Environment) -> MaskingSystem:
            seen.append(super().system(env))
            return seen[-1]

    Watched(stage.batch.labels, stage.settings, stage.attention, classifier).run(env)
    assert classifier.model_path(env).read_bytes() == content
    attention = seen[0].attention
    assert attention is not None
    network = attention.classifier.network
    after = network.state_dict()
    assert any("running_mean" in name for name in after)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in network.modules())
    assert not any(name.startswith("attention") for name in seen[0].state_dict())


def test_the_weight_is_the_attention_losses(
    finished: Finished, trained: TrainMasking, system: MaskingSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(trained, finished.env)
    double = system(batch, POSITION)
    monkeypatch.setattr(system.attention, "settings", dataclasses.replace(ATTENTION, weight=1.0))
    single = system(batch, POSITION)
    assert torch.equal(2 * single["attention"][0], double["attention"][0])
    assert torch.equal(single["saliency"][0], double["saliency"][0])


def test_draws_are_of_step_and_photograph(finished: Finished, trained: TrainMasking, system: MaskingSystem) -> None:
    """A batch's loss is the sum of its photographs' in batches of their own; another step draws anew."""
    batch = batch_of(trained, finished.env)
    scores = 3 * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def loss(index: slice, step: int) -> torch.Tensor:
        part = {name: value[index] for name, value in batch.items()}
        total: torch.Tensor = system.attention(part, scores[index], POSITION._replace(step=step))[0]
        return total

    together = loss(slice(None), 3)
    alone = [loss(slice(index, index + 1), 3) for index in (2, 0, 1)]
    assert torch.allclose(together, torch.stack(alone).sum(), rtol=1e-4)
    assert not all(torch.allclose(together, loss(slice(None), step), rtol=1e-4) for step in range(4, 8))


def test_the_gradient_reaches_the_scores_through_the_classifier(
    finished: Finished, trained: TrainMasking, system: MaskingSystem
) -> None:
    batch = batch_of(trained, finished.env)
    scores = torch.zeros(3, 3, 16, 16, requires_grad=True)
    for step in range(3):
        system.attention(batch, scores, POSITION._replace(step=step))[0].backward()
    assert scores.grad is not None
    assert scores.grad.any()
    assert torch.isfinite(scores.grad).all()


def test_bfloat16_gives_about_the_same(finished: Finished, trained: TrainMasking, system: MaskingSystem) -> None:
    batch = batch_of(trained, finished.env)
    plain = system(batch, POSITION)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = system(batch, POSITION)
    for name, (total, count) in plain.items():
        assert half[name][0].dtype == torch.float32
        assert torch.allclose(half[name][0], total, rtol=0.05), name
        assert torch.equal(half[name][1], count)


@pytest.mark.parametrize("side", [0, 48])
def test_a_step_in_mixed_precision(finished: Finished, folder: Path, side: int) -> None:
    """Which hands the photographs over in half precision, at the segmenter's size or at the classifier's own."""
    stage, env = stage_of(finished, folder, AttentionSettings(side=side)), finished.env
    torch.manual_seed(0)
    runtime = dataclasses.replace(env.runtime, precision="bf16-mixed")
    losses = Trainer(stage.system(env), stage.training(), runtime).step(batch_of(stage, env), POSITION, 1.0)
    assert set(losses) == {"saliency", "attention"}
    assert all(total.dtype == torch.float32 and 0 < total.item() < torch.inf for total, _ in losses.values())


def test_scales_add_up_for_saliency_and_not_for_attention(finished: Finished, folder: Path) -> None:
    views = ViewSettings(crop=64, long_side=(48, 80), colour=0.2)
    plain, scaled = (
        stage_of(finished, folder, cache_features=False, views=views, scales=scales)
        for scales in ((1.0,), (1.0, 0.75, 0.5))
    )
    batch = batch_of(plain, finished.env)
    assert set(batch) == {"id", "labels", "present", "image"}
    torch.manual_seed(0)
    one = plain.system(finished.env).eval()
    torch.manual_seed(0)
    more = scaled.system(finished.env).eval()
    single, several = one(batch, POSITION), more(batch, POSITION)
    assert torch.allclose(single["attention"][0], several["attention"][0])
    objective, labels = one.objective, own_labels(batch)
    total = sum(objective(batch, one.scores(batch, scale), labels)["saliency"][0] for scale in (1.0, 0.75, 0.5))
    assert torch.allclose(several["saliency"][0], total, rtol=1e-4)


def test_without_attention_the_classifier_plays_no_part(finished: Finished, folder: Path) -> None:
    env = finished.env
    stage = stage_of(finished, folder, AttentionSettings(enabled=False))
    assert "classifier" not in stage.inputs
    assert stage.batch.needs == {"present"}
    assert set(stage.example(env)) == {"labels", "features", "present"}
    for system in (stage.system(env), stage.system_to_time(env)):
        assert set(system.eval()(batch_of(stage, env), POSITION)) == {"saliency"}
    twin = stage_of(finished, folder, AttentionSettings(enabled=False, weight=5.0))
    assert twin.fingerprint(env) == stage.fingerprint(env)


def test_rows_of_an_ablation_start_from_one_head(finished: Finished, folder: Path) -> None:
    starts = []
    for enabled in (True, False):
        torch.manual_seed(0)
        stage = stage_of(finished, folder, AttentionSettings(enabled=enabled, side=48))
        starts.append(stage.system(finished.env).network.state_dict())
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())


def test_settings_are_in_the_fingerprint(finished: Finished, folder: Path) -> None:
    variants = [
        ATTENTION,
        AttentionSettings(side=48, paths=3),
        AttentionSettings(side=48, weight=1.0),
        AttentionSettings(),
        AttentionSettings(enabled=False),
    ]
    assert len({stage_of(finished, folder, variant).fingerprint(finished.env) for variant in variants}) == len(variants)


def test_no_masks_are_read(finished: Finished, trained: TrainMasking) -> None:
    assert trained.reads == {"images", "tags"}
    assert trained.inputs["classifier"] is finished.stage(TrainClassifier)


def test_a_step_can_be_timed_without_a_trained_classifier(finished: Finished, trained: TrainMasking) -> None:
    system = trained.system_to_time(finished.env)
    example = {name: value[None] for name, value in trained.example(finished.env).items()}
    assert set(system({"id": ["example"], **example}, POSITION)) == {"saliency", "attention"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -1.0}, r"attention\.weight: -1\.0 must not be negative"),
        ({"paths": 0}, r"attention\.paths: 0 must be above 0"),
        ({"side": -1}, r"attention\.side: -1 is negative"),
    ],
)
def test_impossible_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AttentionSettings(**change)


def test_the_classifier_sees_colours_as_its_weights_expect(system: MaskingSystem) -> None:
    """Of a backbone that subtracts another mean: as if the photograph had been normalised for it."""
    given = system.network.backbone
    wanted = copy.copy(given)
    wanted.mean, wanted.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    photograph = torch.randint(256, (2, 3, 5, 7))
    shown = Renormalise(given, wanted)(normalise(photograph, given))
    assert torch.allclose(shown, normalise(photograph, wanted), atol=1e-5)
    assert torch.equal(Renormalise(given, given)(shown), shown)


def test_what_is_erased_takes_the_classifiers_mean_colour(
    finished: Finished, trained: TrainMasking, system: MaskingSystem
) -> None:
    """Which is 0 to it: of two classes with half of every pixel each, none, one or both are drawn."""
    seen: list[torch.Tensor] = []
    network = system.attention.classifier.network
    with network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
        batch = {**batch_of(trained, finished.env, 2), "present": torch.ones(2, 3, dtype=torch.bool)}
        scores = torch.full((2, 3, 16, 16), 50.0)
        scores[:, 0] = -50
        for step in range(8):
            system.attention(batch, scores, POSITION._replace(step=step))
    brightest = torch.stack([masked.abs().amax((1, 2, 3)).view(2, 2) for masked in seen])
    shares = brightest / brightest.amax((0, 1))
    assert set(shares.mul(100).round().int().unique().tolist()) == {0, 50, 100}
