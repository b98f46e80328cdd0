import dataclasses
from typing import Any

import pytest
import torch

from tag2mask.data.resizing import resize_scores
from tag2mask.engine.system import Position, total_loss
from tag2mask.losses.cross_entropy import foreground_background_cross_entropy
from tag2mask.losses.label_reassign import label_reassign
from tag2mask.stages.single_stage.single_stage_settings import (
    DenseEnergySettings,
    ReassignSettings,
    SingleStageSettings,
)
from tag2mask.stages.single_stage.single_stage_system import nearest
from tests.stages.conftest import Finished
from tests.stages.single_stage.parts import AFFINITY, BOTH, ONLINE, RRM, START, batch_of, stage_of


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
