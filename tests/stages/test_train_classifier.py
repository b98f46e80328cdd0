import json
from typing import Any

import numpy as np
import pytest
import torch

from tag2mask.data.view import IMAGE, to_view, whole_view
from tag2mask.engine.system import Position
from tag2mask.evaluation.classification import average_precision
from tag2mask.networks.inference import normalise
from tag2mask.networks.model_file import read_header
from tag2mask.stages.train_classifier import ClassifierSystem, ScoreClassifier, TrainClassifier
from tag2mask.stages.views import load_photograph
from tests.stages.conftest import Finished


def test_an_example_is_a_view_and_its_tags(finished: Finished) -> None:
    stage, env = finished.stage(TrainClassifier), finished.env
    load = stage.open(env)
    for sample in stage.samples(env):
        example = load(sample, 0)
        assert example["image"].shape == (3, 64, 64)
        assert example["tags"].tolist() == [float(tag in sample.tags) for tag in (1, 2)]
    sample = stage.samples(env)[0]
    assert torch.equal(load(sample, 1)["image"], load(sample, 1)["image"])
    assert not torch.equal(load(sample, 1)["image"], load(sample, 2)["image"])


def test_a_made_up_example_has_the_shapes_of_a_real_one(finished: Finished) -> None:
    stage, env = finished.stage(TrainClassifier), finished.env
    real, made_up = stage.open(env)(stage.samples(env)[0], 0), stage.example(env)
    assert {name: (value.shape, value.dtype) for name, value in made_up.items()} == {
        name: (value.shape, value.dtype) for name, value in real.items()
    }


def test_the_loss_is_binary_cross_entropy(finished: Finished) -> None:
    stage, env = finished.stage(TrainClassifier), finished.env
    system = stage.system(env)
    assert isinstance(system, ClassifierSystem)
    system.eval()
    batch = {"image": torch.randn(2, 3, 64, 64), "tags": torch.tensor([[1.0, 0.0], [1.0, 1.0]])}
    ((name, (total, count)),) = system(batch, Position(0, 1, 0, 0)).items()
    p = system.network(batch["image"]).sigmoid()
    expected = -(batch["tags"] * p.log() + (1 - batch["tags"]) * (1 - p).log()).sum()
    assert name == "classification"
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert int(count) == 4


def test_training_moves_what_is_not_frozen(finished: Finished) -> None:
    stage, env = finished.stage(TrainClassifier), finished.env
    trained, start = stage.load(env).state_dict(), stage.settings.backbone.create(env.runtime.seed).state_dict()
    changed = {name for name, value in start.items() if not torch.equal(trained[f"backbone.{name}"], value)}
    assert changed
    assert not any(name.startswith(("network.conv_stem", "network.bn1", "network.blocks.0.")) for name in changed)
    assert not any("running" in name for name in changed)


def test_the_model_file_says_what_it_is(finished: Finished) -> None:
    stage, env = finished.stage(TrainClassifier), finished.env
    header = read_header(stage.model_path(env))
    assert (header.kind, header.classes) == ("classifier", ("disc", "square"))
    assert header.inference["long_side"] == 64
    assert header.training["training"]["epochs"] == 2
    network = stage.load(env, output_stride=16)
    assert not network.training
    assert network.backbone.output_stride == 16
    assert not list(stage.folder(env).glob("checkpoint*"))


def test_a_checkpoint_left_beside_the_model_goes(finished: Finished) -> None:
    """As after a kill between the model's writing and the checkpoint's end."""
    stage, env = finished.stage(TrainClassifier), finished.env
    before = stage.model_path(env).read_bytes()
    checkpoint = stage.folder(env) / "checkpoint.pt"
    checkpoint.write_bytes(b"state")
    stage.produce(env)
    assert not checkpoint.exists()
    assert stage.model_path(env).read_bytes() == before


def test_the_score_is_average_precision_on_val(finished: Finished) -> None:
    scorer, env = finished.stage(ScoreClassifier), finished.env
    network = finished.stage(TrainClassifier).load(env)
    seen: Any = scorer.open(env)()
    scores, tags = [], []
    assert env.dataset.val is not None
    for sample in env.dataset.val:
        image = load_photograph(sample)
        shown = to_view(image, whole_view((image.shape[1], image.shape[2]), long_side=64), IMAGE, fill=0)
        inputs = normalise(shown, network.backbone)[None]
        with torch.no_grad():
            both = torch.cat([network(inputs).sigmoid(), network(inputs.flip(3)).sigmoid()])
        scores.append(both.mean(0).numpy())
        seen.add(sample)
        assert seen.rows[-1][0] == pytest.approx(scores[-1], abs=1e-4)
        tags.append([tag in sample.tags for tag in (1, 2)])
    found = scorer.metrics(env)
    expected = [average_precision(np.array(scores)[:, i], np.array(tags, int)[:, i]) for i in (0, 1)]
    assert list(found["average_precision"].values()) == pytest.approx(expected)
    assert found["mean_average_precision"] == pytest.approx(np.mean(expected))
    assert found["images"] == 3
    json.dumps(found, allow_nan=False)


def test_estimates(finished: Finished) -> None:
    for kind in (TrainClassifier, ScoreClassifier):
        assert finished.stage(kind).estimate(finished.env).seconds > 0


def test_tags_alone_are_read(finished: Finished) -> None:
    stage = finished.stage(TrainClassifier)
    assert all(sample.mask is None for sample in stage.samples(finished.env))
    assert any(sample.tags for sample in stage.samples(finished.env))
