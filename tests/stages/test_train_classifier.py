import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tag2mask.base.settings import canonical
from tag2mask.data.view import IMAGE, to_view, whole_view
from tag2mask.engine.fingerprint import fingerprint
from tag2mask.engine.system import Position
from tag2mask.errors import SettingsError
from tag2mask.evaluation.classification import average_precision
from tag2mask.losses.cam_consistency import cam_consistency_loss
from tag2mask.losses.classification import multi_label_loss
from tag2mask.networks.classifier import Classifier, ClassifierBlock
from tag2mask.networks.inference import ScaleSettings, normalise
from tag2mask.networks.model_file import read_header
from tag2mask.stages.activation_maps import ActivationMapSettings, activation_maps
from tag2mask.stages.train_classifier import (
    ClassifierHeadSettings,
    ClassifierSettings,
    ClassifierSystem,
    EvaluateClassifier,
    TrainClassifier,
    train_classifier,
)
from tag2mask.stages.views import load_image
from tests.builders import file_bytes
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
    scorer, env = finished.stage(EvaluateClassifier), finished.env
    network = finished.stage(TrainClassifier).load(env)
    seen: Any = scorer.open(env)()
    scores, tags = [], []
    assert env.dataset.val is not None
    for sample in env.dataset.val:
        image = load_image(sample)
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
    for kind in (TrainClassifier, EvaluateClassifier):
        assert finished.stage(kind).estimate(finished.env).seconds > 0


def test_tags_alone_are_read(finished: Finished) -> None:
    stage = finished.stage(TrainClassifier)
    assert all(sample.mask is None for sample in stage.samples(finished.env))
    assert any(sample.tags for sample in stage.samples(finished.env))


HEAD = ClassifierHeadSettings(width=8, dilations=(2, 3), cam_weight=0.5)


def with_blocks(finished: Finished, **changes: Any) -> TrainClassifier:
    """The finished run's classifier with dilated blocks beside its own."""
    head = dataclasses.replace(HEAD, **changes)
    return train_classifier(dataclasses.replace(finished.settings.classifier, head=head))


def test_losses_with_dilated_blocks(finished: Finished) -> None:
    system = with_blocks(finished).system(finished.env)
    assert isinstance(system, ClassifierSystem)
    system.eval()
    batch = {"image": torch.randn(2, 3, 64, 64), "tags": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}
    with torch.no_grad():
        losses = system(batch, Position(0, 1, 0, 0))
        features = system.network.backbone(batch["image"])
        maps = [block(features) for block in (system.network.head, *system.dilated)]
        blocks = [multi_label_loss(each.mean((2, 3)), batch["tags"]) for each in maps]
    assert losses.keys() == {"classification", "cam"}
    # The cross-entropies of three blocks are added up, not averaged (eq. 2.1).
    expected = sum(float(total / count) for total, count in blocks)
    assert float(losses["classification"][0] / losses["classification"][1]) == pytest.approx(expected, rel=1e-5)
    difference, count = cam_consistency_loss(maps[0], torch.stack(maps[1:]), batch["tags"])
    assert float(losses["cam"][0]) == pytest.approx(0.5 * float(difference), rel=1e-5)
    assert int(losses["cam"][1]) == int(count)


def test_mixed_precision_counts_right(finished: Finished) -> None:
    """81 tags of 5 photographs, which bfloat16 takes for 404."""
    backbone = finished.settings.classifier.backbone.create(0)
    block = ClassifierBlock(backbone.channels, 81, width=8, dilation=2)
    system = ClassifierSystem(Classifier(backbone, 81, width=8), 1.0, [block], 0.5)
    batch = {"image": torch.zeros(5, 3, 32, 32), "tags": torch.zeros(5, 81, dtype=torch.bfloat16)}
    losses = system(batch, Position(0, 1, 0, 0))
    assert int(losses["classification"][1]) == 405


def test_the_cam_loss_moves_the_standard_block_alone(finished: Finished) -> None:
    torch.manual_seed(0)
    system = with_blocks(finished).system(finished.env)
    assert isinstance(system, ClassifierSystem)
    # By chance all scores of the standard block may be negative, where ReLU ends the gradient, or above the others'.
    for block, height in zip((system.network.head, *system.dilated), (1.0, 2.0, 2.0), strict=True):
        nn.init.constant_(block[-1].bias, height)
    batch = {"image": torch.randn(2, 3, 64, 64), "tags": torch.ones(2, 2)}
    losses = system(batch, Position(0, 1, 0, 0))
    losses["cam"][0].backward(retain_graph=True)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in system.dilated.parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in system.network.head_parameters())
    losses["classification"][0].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in system.dilated.parameters())


def test_new_layers_of_all_blocks_learn_at_the_heads_rate(finished: Finished) -> None:
    system = with_blocks(finished).system(finished.env)
    assert isinstance(system, ClassifierSystem)
    _, head = system.parameter_groups()["network"]
    assert head.multiplier == finished.settings.classifier.training.head_multiplier
    new = [*system.network.head.parameters(), *system.dilated.parameters()]
    assert [id(parameter) for parameter in head.parameters] == [id(parameter) for parameter in new]
    assert len(new) == 3 * 6


class Killed(TrainClassifier):
    """Dies while its second epoch's last example is made."""

    def open(self, env: Any) -> Any:
        load, last = super().open(env), self.samples(env)[-1].id

        def example(sample: Any, epoch: int) -> dict[str, Any]:
            if (sample.id, epoch) == (last, 1):
                raise RuntimeError("killed")
            return load(sample, epoch)

        return example


def test_dilated_blocks_are_in_the_checkpoint_and_not_in_the_model(finished: Finished) -> None:
    stage, env = with_blocks(finished), finished.env
    stage.run(env)
    header, network = read_header(stage.model_path(env)), stage.load(env)
    assert header.head == {"width": 8}
    assert network.width == 8
    assert {name.partition(".")[0] for name in network.state_dict()} == {"backbone", "head"}
    assert len([name for name in network.state_dict() if name.startswith("head.")]) == 6
    assert activation_maps(stage, ActivationMapSettings(inference=ScaleSettings(long_side=64))).open(env)(
        stage.samples(env)[0]
    )
    whole = file_bytes(stage.folder(env))
    shutil.rmtree(stage.folder(env))
    killed = Killed(stage.settings)
    with pytest.raises(RuntimeError, match="killed"):
        killed.run(env)
    assert (killed.folder(env) / "checkpoint.pt").is_file()
    stage.run(env)
    assert file_bytes(stage.folder(env)) == whole


def test_the_head_leaves_fingerprints_of_before_alone() -> None:
    """As before there was a `head`: in none of its forms does the default appear."""
    settings = ClassifierSettings()
    before = {"backbone", "views", "dropout", "training"}
    assert canonical(settings, for_fingerprint=True).keys() == before
    assert canonical(dataclasses.replace(settings, head=HEAD), for_fingerprint=True).keys() == before | {"head"}
    assert fingerprint(settings) == fingerprint({name: getattr(settings, name) for name in before})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"dilations": (3, 6)}, r"classifier\.head\.dilations: \[3, 6\] need a head\.width above 0"),
        ({"width": 8, "dilations": (0,)}, r"classifier\.head\.dilations: \[0\] must be above 0"),
        ({"width": -1}, "width and cam_weight must not be negative"),
        ({"cam_weight": -0.1}, "width and cam_weight must not be negative"),
    ],
)
def test_impossible_heads(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        ClassifierHeadSettings(**wrong)
