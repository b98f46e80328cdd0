import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tag2mask.engine.system import total_loss
from tag2mask.losses.balanced_seed import balanced_seed_loss
from tag2mask.stages.seeds import RefineSeeds
from tag2mask.stages.train_segmenter import train_segmenter
from tests.stages.conftest import Finished
from tests.stages.segmenters import START, segmenter, uncached


def test_features_stand_for_the_image(finished: Finished) -> None:
    """Head and later blocks on cached features come to the same losses, up to half precision."""
    env, cached, plain = finished.env, segmenter(finished), uncached(finished)
    torch.manual_seed(0)
    with_cache = cached.system(env).eval()
    torch.manual_seed(0)
    without = plain.system(env).eval()
    sample = cached.samples(env)[0]
    batches = [{k: v[None] for k, v in stage.open(env)(sample, 0).items()} for stage in (cached, plain)]
    assert set(batches[0]) == {"features", "labels"}
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])
    assert float(total_loss(with_cache(batches[0], START)).detach()) == pytest.approx(
        float(total_loss(without(batches[1], START)).detach()), abs=1e-4
    )


def test_groups_hold_trained_blocks_and_the_head(finished: Finished) -> None:
    system: Any = segmenter(finished).system(finished.env)
    trained, head = system.parameter_groups()["network"]
    assert head.multiplier == finished.settings.segmenter.training.head_multiplier
    assert head.parameters == list(system.network.head.parameters())
    assert all(parameter.requires_grad for parameter in trained.parameters)
    names = {name for name, p in system.network.backbone.named_parameters() if p.requires_grad}
    assert len(trained.parameters) == len(names)
    assert all(name.startswith(("network.blocks.3.", "network.blocks.4.")) for name in names)


def test_losses_are_summed_over_the_scales_and_labels_made_once(finished: Finished) -> None:
    env = finished.env
    settings = dataclasses.replace(
        finished.settings.segmenter, cache_features=False, loss="balanced_seed", scales=(1.0, 0.5)
    )
    stage = train_segmenter(finished.stage(RefineSeeds), settings)
    system: Any = stage.system(env).eval()
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 16, 16), generator=generator).to(torch.uint8)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    calls = []
    supervision = system.supervision.forward

    def watched(batch: Any, scores: Any, network: Any, position: Any) -> Any:
        calls.append(scores)
        return supervision(batch, scores, network, position)

    system.supervision.forward = watched
    ((total, count),) = system({"image": images, "labels": labels}, START).values()
    assert len(calls) == 1
    expected = []
    for shown in (images, F.interpolate(images, (32, 32), mode="bilinear", align_corners=False)):
        scores = F.interpolate(system.network(shown), (16, 16), mode="bilinear", align_corners=False)
        expected.append(balanced_seed_loss(scores, labels)[0])
    assert torch.equal(calls[0], F.interpolate(system.network(images), (16, 16), mode="bilinear", align_corners=False))
    assert float(total.detach()) == pytest.approx(sum(float(value.detach()) for value in expected), rel=1e-5)
    assert int(count) == 2
