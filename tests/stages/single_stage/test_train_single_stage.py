import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.data.masks import read_mask
from tag2mask.data.samples import Sample
from tag2mask.engine.environment import Environment
from tag2mask.engine.logs import read_log
from tag2mask.engine.system import Position, total_loss
from tag2mask.errors import SettingsError, WorkspaceError
from tag2mask.losses.cross_entropy import foreground_background_cross_entropy
from tag2mask.losses.label_reassign import label_reassign
from tag2mask.networks.model_file import load_model
from tag2mask.networks.segmenter import HeadSettings, resize_scores
from tag2mask.stages.growth import OnlineCRFSettings
from tag2mask.stages.single_stage.train_single_stage import (
    AdaptiveAffinitySettings,
    DenseEnergySettings,
    OnlineCamSettings,
    ReassignSettings,
    SingleStageParts,
    SingleStageSettings,
    TrainSingleStage,
    nearest,
    online_labels,
    train_single_stage,
)
from tag2mask.stages.train_classifier import ClassifierHeadSettings, TrainClassifier
from tests.builders import file_bytes
from tests.stages.conftest import Finished, run_with_inputs

START = Position(0, 1, 0, 0)
RRM = ["classification", "background", "foreground"]
AFFINITY = [
    f"affinity_{name}" for name in ("same_background", "same_object", "different_objects", "different_background")
]
HEAD = HeadSettings(kind="dilated", width=12, dilations=(2,), dropout=0.0)
# A network that has learnt next to nothing is sure of little.
ONLINE = OnlineCamSettings(
    scales=(1.0,),
    low_alpha=0.5,
    high_alpha=1.0,
    background_above=0.4,
    probability_above=0.5,
    crf=OnlineCRFSettings(iterations=2, shrink=4.0),
)
BOTH: dict[str, Any] = {
    "affinity": AdaptiveAffinitySettings(distance=1),
    "reassign": ReassignSettings(),
    "settings": SingleStageSettings(segmentation_from=0.0, grid_stride=4),
}


def stage_of(finished: Finished, *, made: bool = True, segmenter: dict[str, Any] | None = None, **parts: Any) -> Any:
    """From `cam`'s classifier; every input is made."""
    plain = SingleStageParts(SingleStageSettings(segmentation_from=0.0, grid_stride=4), ONLINE)
    settings = dataclasses.replace(finished.settings.segmenter, **{"head": HEAD, **(segmenter or {})})
    stage = train_single_stage(settings, dataclasses.replace(plain, **parts), finished.stage(TrainClassifier))
    for needed in stage.inputs.values() if made else ():
        run_with_inputs(needed, finished.env)
    return stage


def test_a_classifier_of_several_convolutions_is_refused(finished: Finished) -> None:
    plain = finished.stage(TrainClassifier).settings
    wide = TrainClassifier(dataclasses.replace(plain, head=ClassifierHeadSettings(width=8)))
    parts = SingleStageParts(SingleStageSettings(grid_stride=4), ONLINE)
    settings = dataclasses.replace(finished.settings.segmenter, head=HEAD)
    with pytest.raises(SettingsError, match=r"classifier\.head\.width: 8 is not 0"):
        train_single_stage(settings, parts, wide)


def batch_of(stage: TrainSingleStage, env: Environment, count: int = 4) -> dict[str, Any]:
    load = stage.open(env)
    examples = [load(sample, 0) for sample in stage.samples(env)[:count]]
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


@pytest.fixture(scope="module")
def trained(finished: Finished) -> TrainSingleStage:
    stage: TrainSingleStage = stage_of(finished, **BOTH)
    stage.run(finished.env)
    return stage


class Killed(TrainSingleStage):
    """Dies while its second epoch's last example is made."""

    def open(self, env: Environment) -> Callable[[Sample, int], dict[str, Any]]:
        load, last = super().open(env), self.samples(env)[-1].id

        def example(sample: Sample, epoch: int) -> dict[str, Any]:
            if (sample.id, epoch) == (last, 1):
                raise RuntimeError("killed")
            return load(sample, epoch)

        return example


def test_losses_are_logged_one_by_one(finished: Finished, trained: TrainSingleStage) -> None:
    lines = read_log(trained.folder(finished.env))
    assert len(lines) == 2
    for line in lines:
        names = line.keys() - {"step", "learning_rate", "images_per_second", "waiting_share"}
        assert names == {*RRM, *AFFINITY, "reassign"}
        assert all(np.isfinite(line[name]) for name in names)
        assert all(line[name] > 0 for name in ("classification", "foreground", "affinity_same_object"))


def test_killed_half_way_it_ends_the_same(finished: Finished, trained: TrainSingleStage) -> None:
    env = finished.env
    whole = file_bytes(trained.folder(env))
    strips = {f"growth/{epoch}/{sample.id}.png" for epoch in ("001", "002") for sample in trained.samples(env)}
    assert set(whole) == strips | {"model.safetensors", "classifier.safetensors", "stage.json"}
    for path in sorted(trained.folder(env).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    killed = Killed(trained.settings, trained.parts, start=finished.stage(TrainClassifier))
    assert killed.folder(env) == trained.folder(env)
    with pytest.raises(RuntimeError, match="killed"):
        killed.run(env)
    assert (killed.folder(env) / "checkpoint.pt").is_file()
    trained.run(env)
    assert file_bytes(trained.folder(env)) == whole


def test_what_was_trained_is_rebuilt_whole(finished: Finished, trained: TrainSingleStage) -> None:
    """By the networks as they are loaded, labels are those that the last epoch's end had."""
    env = finished.env
    labels = online_labels(trained)
    labels.run(env)
    found = set()
    for sample in trained.samples(env):
        made = labels.load(env, sample.id)
        assert np.array_equal(made, read_mask(trained.folder(env) / "growth" / "002" / f"{sample.id}.png"))
        assert set(np.unique(made)) <= {0, 255, *sample.tags}
        found |= set(np.unique(made))
    assert found > {255}
    system = trained.trained_system(env)
    assert not system.training
    (strip,) = trained.draw(env, trained.folder(env) / "drawn")
    assert strip.name == "online_labels_over_epochs.jpg"


def test_both_files_are_networks_of_their_own(finished: Finished, trained: TrainSingleStage) -> None:
    env = finished.env
    segmenter, header = load_model(trained.model_path(env))
    assert (header.kind, header.head["kind"]) == ("segmenter", "dilated")
    assert {name.split(".")[0] for name in segmenter.state_dict()} == {"backbone", "head"}
    classifier: Any
    classifier, header = load_model(trained.classifier_path(env))
    assert header.kind == "classifier"
    system = trained.trained_system(env)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = system.network.backbone(images)
        assert torch.allclose(segmenter(images), system.network(images), atol=1e-5)
        assert torch.allclose(classifier.score_maps(images), system.cam.maps(features), atol=1e-5)
    before = finished.stage(TrainClassifier).load(env).head.weight
    assert not torch.equal(classifier.head.weight, before)


def test_a_damaged_part_is_named(finished: Finished) -> None:
    env, stage = finished.env, stage_of(finished)
    stage.run(env)
    stage.classifier_path(env).write_bytes(b"no weights")
    with pytest.raises(WorkspaceError, match=r"classifier\.safetensors.*delete the folder"):
        stage.trained_system(env)


def test_it_starts_from_the_classifiers_backbone_and_head(finished: Finished) -> None:
    env = finished.env
    classifier: Any = finished.stage(TrainClassifier).load(env, output_stride=16)
    system = stage_of(finished).system(env).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = system.cam.maps(system.network.backbone(images))
        assert torch.allclose(maps, classifier.score_maps(images), atol=1e-5)
    settings = SingleStageSettings(start="pretrained", segmentation_from=0.0, grid_stride=4)
    stage = stage_of(finished, settings=settings, made=False, segmenter={"cache_features": False})
    assert "start" not in stage.inputs
    fresh = stage.system(env)
    assert fresh.cam.classifier.backbone is fresh.network.backbone
    moved = "network.blocks.3.0.conv_pw.weight"
    assert not torch.equal(fresh.network.backbone.state_dict()[moved], classifier.backbone.state_dict()[moved])
    stage.run(env)
    assert torch.equal(
        stage.load_classifier(env).backbone.state_dict()[moved], stage.load(env).backbone.state_dict()[moved]
    )
    assert all(np.isfinite(value) for line in read_log(stage.folder(env)) for value in line.values())


def test_true_masks_are_never_seen(finished: Finished, trained: TrainSingleStage) -> None:
    assert trained.reads == {"images", "tags"}
    assert all(sample.mask is None for sample in trained.samples(finished.env))


@pytest.mark.parametrize("cache_features", [True, False])
def test_made_up_examples_have_the_shapes_of_real_ones(finished: Finished, cache_features: bool) -> None:
    env, stage = finished.env, stage_of(finished, segmenter={"cache_features": cache_features})
    real, made_up = stage.open(env)(stage.samples(env)[0], 0), stage.example(env)
    assert {name: (value.shape, value.dtype) for name, value in made_up.items()} == {
        name: (value.shape, value.dtype) for name, value in real.items()
    }
    assert stage.estimate(env).seconds > 0


def test_features_stand_for_the_image(finished: Finished) -> None:
    """Later blocks and both heads on cached features come to the same scores, up to half precision."""
    env, found = finished.env, []
    for cache_features in (True, False):
        stage = stage_of(finished, segmenter={"cache_features": cache_features}, **BOTH)
        torch.manual_seed(0)
        system = stage.system(env).eval()
        batch = batch_of(stage, env)
        found.append(system.levels(batch))
        found[-1] = (found[-1].scores, system.cam.maps(found[-1].features))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=2e-3)


def test_before_its_share_of_the_steps_segmentation_costs_nothing(finished: Finished) -> None:
    settings = SingleStageSettings(segmentation_from=0.5, grid_stride=4)
    stage = stage_of(finished, **{**BOTH, "settings": settings}, dense_energy=DenseEnergySettings(stride=4))
    system, batch = stage.system(finished.env).train(), batch_of(stage, finished.env)
    names = [*RRM, *AFFINITY, "reassign", "dense_energy"]
    for step, begun in ((0, False), (4, False), (5, True)):
        system.zero_grad()
        losses = system(batch, Position(step, 10, 0, 0))
        assert sorted(losses) == sorted(names)
        total_loss(losses).backward()
        for name in names[1:]:
            assert bool(losses[name][0].detach() != 0) <= begun
        assert bool(losses["foreground"][0] > 0) is begun
        # Every parameter that is trained has a gradient at every step, of 0 in the segmentation head before.
        trained = [p for groups in system.parameter_groups().values() for group in groups for p in group.parameters]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        assert any(p.grad.any() for p in system.network.head.parameters() if p.grad is not None) is begun


def test_every_trained_parameter_has_one_owner(finished: Finished) -> None:
    for start, cached in (("classifier", True), ("pretrained", False)):
        settings = SingleStageSettings(start=start, segmentation_from=0.0, grid_stride=4)  # type: ignore[arg-type]
        stage = stage_of(finished, settings=settings, made=False, segmenter={"cache_features": cached})
        system = stage.system_to_time(finished.env)
        groups = system.parameter_groups()["network"]
        owned = [id(p) for group in groups for p in group.parameters]
        assert sorted(owned) == sorted(id(p) for p in system.parameters() if p.requires_grad)
        assert [group.multiplier for group in groups] == [1, stage.settings.training.head_multiplier]
        heads = {id(p) for p in (*system.network.head.parameters(), *system.cam.classifier.head.parameters())}
        assert {id(p) for p in groups[1].parameters} == heads


def test_cross_entropy_is_weighed_by_what_embeddings_say(finished: Finished) -> None:
    """On a grid of AALR's losses twice as coarse as the labels': their cell's weight where both have one label."""
    settings = SingleStageSettings(segmentation_from=0.0, grid_stride=8)
    everything = dataclasses.replace(ONLINE, share=1.0, cam_above=0.0, background_above=0.0, probability_above=0.0)
    reassign = ReassignSettings(weight=0.5, temperature=0.3)
    stage = stage_of(finished, settings=settings, reassign=reassign, online_cams=everything)
    system, batch = stage.system(finished.env).eval(), batch_of(stage, finished.env)
    found, targets = system.levels(batch), system.targets(batch, START)
    labels, grid = targets.labels, (8, 8)
    assert labels.shape[1:] == (16, 16)
    coarse = nearest(labels, grid)
    reassigned = label_reassign(
        resize_scores(found.hidden, grid), coarse, nearest(targets.confidence, grid), batch["present"], temperature=0.3
    )
    weights = torch.ones(labels.shape)
    for row, y, x in (labels != 255).nonzero().tolist():
        if coarse[row, y // 2, x // 2] == labels[row, y, x]:
            weights[row, y, x] = reassigned.weights[row, y // 2, x // 2]
    assert (weights < 1).any()
    losses = system(batch, START)
    expected = foreground_background_cross_entropy(resize_scores(found.scores, (16, 16)), labels, weights)
    for name, (total, count) in expected.items():
        assert torch.allclose(losses[name][0], total, rtol=1e-4)
        assert losses[name][1] == count
    assert torch.allclose(losses["reassign"][0], 0.5 * reassigned.loss[0], rtol=1e-4)


def test_other_scales_show_the_cam_head_the_photograph_again(finished: Finished) -> None:
    online = dataclasses.replace(ONLINE, scales=(1.0, 0.5))
    stage = stage_of(finished, online_cams=online, segmenter={"cache_features": False})
    system, batch = stage.system(finished.env).eval(), batch_of(stage, finished.env)
    seen: list[Any] = []
    system.online.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    system.targets(batch, START)
    ((own, half),) = seen
    small = resize_scores(batch["image"], (32, 32))
    with torch.no_grad():
        assert torch.equal(own, system.cam.maps(system.network.backbone(batch["image"])))
        assert torch.equal(half, system.cam.maps(system.network.backbone(small)))
    assert half.shape[2:] == (2, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(finished: Finished, dtype: torch.dtype) -> None:
    stage = stage_of(finished, **BOTH, dense_energy=DenseEnergySettings(stride=4))
    system, batch = stage.system(finished.env).eval(), batch_of(stage, finished.env)
    with torch.autocast("cpu", dtype):
        losses = system(batch, START)
    assert all(total.dtype == torch.float32 and total.isfinite() for total, _ in losses.values())


def test_every_setting_counts(finished: Finished) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"affinity": AdaptiveAffinitySettings()},
        {"affinity": AdaptiveAffinitySettings(groups="published")},
        {"reassign": ReassignSettings()},
        {"dense_energy": DenseEnergySettings(stride=4)},
        {"online_cams": dataclasses.replace(ONLINE, share=0.5)},
        {"settings": SingleStageSettings(segmentation_from=0.5, grid_stride=4)},
        {"settings": SingleStageSettings(segmentation_from=0.0, grid_stride=4, start="pretrained")},
        {"segmenter": {"label_stride": 2}},
    ]
    prints = [stage_of(finished, made=False, **change).fingerprint(finished.env) for change in changes]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"segmenter": {"head": HeadSettings(kind="aspp", dilations=(2, 4))}}, r"segmenter\.head\.kind"),
        ({"online_cams": OnlineCamSettings()}, r"online_cams\.scales.*segmenter\.cache_features"),
        (
            {"affinity": AdaptiveAffinitySettings(), "settings": SingleStageSettings(grid_stride=6)},
            r"single_stage\.grid_stride: 6 must be a multiple of segmenter\.label_stride",
        ),
        ({"dense_energy": DenseEnergySettings()}, r"dense_energy\.stride: 2 must be a multiple"),
    ],
)
def test_settings_that_do_not_go_together(finished: Finished, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        stage_of(finished, made=False, **wrong)


def test_a_classifier_that_reads_an_earlier_block_cannot_be_gone_on_from(finished: Finished) -> None:
    backbone = dataclasses.replace(finished.settings.classifier.backbone, block="blocks.3")
    classifier = TrainClassifier(dataclasses.replace(finished.settings.classifier, backbone=backbone))
    settings = dataclasses.replace(finished.settings.segmenter, head=HEAD)
    parts = SingleStageParts(SingleStageSettings(), ONLINE)
    with pytest.raises(SettingsError, match=r"segmenter\.backbone\.block: 'blocks\.4' comes after 'blocks\.3'"):
        train_single_stage(settings, parts, classifier).system_to_time(finished.env)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnlineCamSettings(scales=(0.5,)), r"online_cams\.scales"),
        (lambda: OnlineCamSettings(low_alpha=3, high_alpha=2), "low_alpha <= high_alpha"),
        (lambda: OnlineCamSettings(share=0), r"online_cams\.share"),
        (lambda: OnlineCamSettings(probability_above=1.5), r"online_cams\.probability_above"),
        (lambda: AdaptiveAffinitySettings(groups="three"), r"affinity\.groups.*four, published"),  # type: ignore[arg-type]
        (lambda: AdaptiveAffinitySettings(distance=0), "affinity"),
        (lambda: ReassignSettings(temperature=0), "reassign"),
        (lambda: SingleStageSettings(start="nothing"), r"single_stage\.start"),  # type: ignore[arg-type]
        (lambda: SingleStageSettings(segmentation_from=1), r"single_stage\.segmentation_from"),
        (lambda: SingleStageSettings(dropout=1), r"single_stage\.dropout"),
        (lambda: SingleStageSettings(grid_stride=0), r"single_stage\.grid_stride"),
        (lambda: DenseEnergySettings(stride=0), r"dense_energy\.stride"),
        (lambda: DenseEnergySettings(weight=-1), r"dense_energy\.weight"),
    ],
)
def test_impossible_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()
