import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tag2mask.data.view import LABELS, to_view
from tag2mask.engine.system import Position, total_loss
from tag2mask.errors import SettingsError
from tag2mask.losses.balanced_seed import balanced_seed_loss
from tag2mask.networks.model_file import read_header
from tag2mask.stages.backbone import BackboneSettings
from tag2mask.stages.seeds import RefineSeeds
from tag2mask.stages.segmenter_settings import SegmenterSettings
from tag2mask.stages.train_segmenter import TrainSegmenter, train_segmenter
from tag2mask.stages.views import ViewSettings, load_image, view_image
from tests.stages.conftest import Finished

START = Position(0, 1, 0, 0)


def segmenter(finished: Finished) -> TrainSegmenter:
    """The one that learns from pseudo-labels, not the bound."""
    assert isinstance(finished.plan.model, TrainSegmenter)
    return finished.plan.model


def uncached(finished: Finished, **changes: Any) -> TrainSegmenter:
    settings = dataclasses.replace(finished.settings.segmenter, cache_features=False, **changes)
    return train_segmenter(finished.stage(RefineSeeds), settings)


def test_the_loss_is_cross_entropy_of_upsampled_scores(finished: Finished) -> None:
    stage, env = uncached(finished), finished.env
    system = stage.system(env).eval()
    labels = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels[0, :4] = 255
    images = torch.randn(2, 3, 64, 64)
    ((name, (total, count)),) = system({"image": images, "labels": labels}, START).items()
    network: Any = system.network
    scores = network.head(network.backbone(images))
    scores = F.interpolate(scores, (16, 16), mode="bilinear", align_corners=False)
    log_p = scores.log_softmax(1)
    chosen = [log_p[n, int(labels[n, y, x]), y, x] for n, y, x in (labels != 255).nonzero().tolist()]
    assert name == "cross_entropy"
    assert int(count) == len(chosen) == 2 * 256 - 64
    assert float(total.detach()) == pytest.approx(-float(torch.stack(chosen).sum().detach()), rel=1e-4)


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


def test_training_with_cached_features_comes_to_the_same_network(finished: Finished) -> None:
    env, plain = finished.env, uncached(finished)
    plain.run(env)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores, expected = segmenter(finished).load(env)(images), plain.load(env)(images)
        start: Any = segmenter(finished).system(env).eval()
        learnt = (expected - start.network(images)).abs().max()
    # Half precision in the features grows with every step of a training, but stays small beside what is learnt.
    assert float((scores - expected).abs().max()) < 0.05 * float(learnt)


def test_an_example_shows_labels_where_the_photograph_is(finished: Finished) -> None:
    stage, env = uncached(finished), finished.env
    views, labels = stage.settings.views, finished.stage(RefineSeeds)
    mirrors = set()
    for sample in stage.samples(env):
        for epoch in (0, 1):
            example, image = stage.open(env)(sample, epoch), load_image(sample)
            view = views.draw((image.shape[1], image.shape[2]), seed=env.runtime.seed, epoch=epoch, image_id=sample.id)
            mirrors.add(view.mirror)
            mask = torch.from_numpy(labels.load(env, sample.id))
            assert torch.equal(example["labels"], to_view(mask, view, LABELS, stride=4))
            backbone = stage.settings.backbone.create(env.runtime.seed)
            assert torch.equal(example["image"], view_image(image, view, backbone))
    assert mirrors == {False, True}


def test_made_up_examples_have_the_shapes_of_real_ones(finished: Finished) -> None:
    env = finished.env
    for stage in (segmenter(finished), uncached(finished)):
        real, made_up = stage.open(env)(stage.samples(env)[0], 0), stage.example(env)
        assert {name: (value.shape, value.dtype) for name, value in made_up.items()} == {
            name: (value.shape, value.dtype) for name, value in real.items()
        }
        assert stage.estimate(env).seconds > 0


def test_groups_hold_trained_blocks_and_the_head(finished: Finished) -> None:
    system: Any = segmenter(finished).system(finished.env)
    trained, head = system.parameter_groups()["network"]
    assert head.multiplier == finished.settings.segmenter.training.head_multiplier
    assert head.parameters == list(system.network.head.parameters())
    assert all(parameter.requires_grad for parameter in trained.parameters)
    names = {name for name, p in system.network.backbone.named_parameters() if p.requires_grad}
    assert len(trained.parameters) == len(names)
    assert all(name.startswith(("network.blocks.3.", "network.blocks.4.")) for name in names)


def test_the_loss_of_choice_is_the_objective(finished: Finished) -> None:
    stage = uncached(finished, loss="balanced_seed")
    system: Any = stage.system(finished.env).eval()
    labels = torch.randint(0, 3, (1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = torch.zeros(1, 3, 64, 64)
    losses = system({"image": images, "labels": labels}, START)
    scores = F.interpolate(system.network(images), (16, 16), mode="bilinear", align_corners=False)
    assert torch.allclose(losses["balanced_seed"][0], balanced_seed_loss(scores, labels)[0])


def test_the_model_file_says_what_it_is(finished: Finished) -> None:
    stage, env = segmenter(finished), finished.env
    header = read_header(stage.model_path(env))
    assert (header.kind, header.classes) == ("segmenter", ("disc", "square"))
    assert header.backbone == {"name": "tf_efficientnet_lite0", "output_stride": 16, "block": "blocks.4"}
    assert header.head["width"] == 16
    assert header.inference["long_side"] == 64
    assert stage.load(env).head[-1].out_channels == 3  # type: ignore[index]
    assert all(not sample.tags and sample.mask is None for sample in stage.samples(env))


FROZEN = BackboneSettings(frozen_until="blocks.1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "dice"}, "dice.*cross_entropy, balanced_seed"),
        ({"label_stride": 0}, "label_stride: 0"),
        ({"cache_features": True, "views": ViewSettings(whole=True)}, "frozen_until"),
        ({"cache_features": True, "backbone": FROZEN}, "views.whole"),
        ({"cache_features": True, "backbone": FROZEN, "views": ViewSettings(whole=True, colour=0.1)}, "colour"),
        ({"cache_features": True, "backbone": FROZEN, "views": ViewSettings(whole=True), "scales": (1, 0.5)}, "scale"),
        ({"scales": (0.5, 1.0)}, "scales"),
        ({"scales": ()}, "scales"),
    ],
)
def test_settings_that_do_not_go_together(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SegmenterSettings(**wrong)


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


def test_a_training_can_go_on_from_another(finished: Finished) -> None:
    env, first = finished.env, segmenter(finished)
    labels = finished.stage(RefineSeeds)
    second = train_segmenter(labels, first.settings, start=first)
    assert second.fingerprint(env) != first.fingerprint(env)
    learnt, begun = first.load(env).state_dict(), second.system(env).network.state_dict()
    for name, value in learnt.items():
        assert torch.equal(value, begun[name])
    other = dataclasses.replace(first.settings, head=dataclasses.replace(first.settings.head, width=8))
    with pytest.raises(SettingsError, match=r"retrain\.segmenter: backbone and head .*from_first false"):
        train_segmenter(labels, other, start=first)


def test_without_growing_nothing_is_kept_of_epochs(finished: Finished, tmp_path: Path) -> None:
    stage = segmenter(finished)
    assert stage.strips is None
    assert not (stage.folder(finished.env) / "growth").exists()
    assert stage.draw(finished.env, tmp_path) == []


def test_fixed_labels_come_back_as_the_grid_sees_them(finished: Finished) -> None:
    """What a supervision that changes nothing makes of a photograph is its own labels, at the grid's resolution."""
    env, stage = finished.env, segmenter(finished)
    labels = stage.online_labels(stage.trained_system(env), env)
    for sample in stage.samples(env):
        own = torch.from_numpy(stage.labels.load(env, sample.id))
        made = labels(sample)
        assert made.shape == own.shape
        assert float((made == own).float().mean()) > 0.8
        assert set(made.unique().tolist()) <= set(own.unique().tolist())
