import pytest
import torch

from tag2mask.errors import SettingsError
from tag2mask.losses.boundary import boundary_loss
from tag2mask.losses.expansion import expansion_loss
from tag2mask.supervision.objective import (
    OBJECTIVES,
    Objective,
    balanced_seed_objective,
    boundary_objective,
    cross_entropy_objective,
    expansion_objective,
    seed_objective,
)
from tag2mask.supervision.targets import Targets


def test_terms_add_up_and_weights_multiply() -> None:
    one = Objective({"one": (lambda batch, scores, targets: (scores.sum(), torch.tensor(2)), 1.0)})
    two = Objective({"two": (lambda batch, scores, targets: (batch["x"], torch.tensor(1)), 1.0)})
    losses = (one + 3 * two)({"x": torch.tensor(5.0)}, torch.ones(4), Targets(torch.zeros(1, 1, 1)))
    assert float(losses["one"][0]) == 4
    assert float(losses["two"][0]) == 15


def test_named_objectives_learn_from_labels() -> None:
    labels = torch.tensor([[[0, 1], [255, 1]]])
    right = torch.nn.functional.one_hot(labels.clamp(max=2), 3).permute(0, 3, 1, 2) * 10.0
    for name, build in OBJECTIVES.items():
        good = build()({}, right, Targets(labels))[name]
        bad = build()({}, -right, Targets(labels))[name]
        assert float(good[0]) < float(bad[0]), name


SHAPES = {"present": (3,), "inside": (4, 4)}


def test_a_name_stands_once() -> None:
    with pytest.raises(ValueError, match="cross_entropy"):
        OBJECTIVES["cross_entropy"]() + OBJECTIVES["cross_entropy"]()


def test_identity_is_weights_and_settings() -> None:
    assert (cross_entropy_objective() + 0.5 * balanced_seed_objective()).identity == {
        "cross_entropy": 1.0,
        "balanced_seed": 0.5,
    }
    sec = seed_objective() + 2 * expansion_objective(absent_decay=0.5) + boundary_objective()
    decays = {"present_decay": 0.996, "background_decay": 0.999, "absent_decay": 0.5}
    inside = {"pixels": "inside"}
    assert sec.identity == {"seed": 1.0, "expansion": [2.0, {**decays, **inside}], "boundary": [1.0, inside]}
    assert sec.needs == {"present", "inside"}
    assert (3 * sec).needs == {"present", "inside"}
    assert boundary_objective().needs == {"inside"}
    with pytest.raises(ValueError, match="expansion"):
        Objective({}, {"expansion": {}})


def test_boundary_learns_from_refined_scores() -> None:
    torch.manual_seed(0)
    scores, refined = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4).softmax(1)
    labels = torch.zeros(2, 4, 4)
    batch = {"inside": torch.arange(16).reshape(1, 4, 4).repeat(2, 1, 1) < 12}
    total, count = boundary_objective()(batch, scores, Targets(labels, refined))["boundary"]
    assert torch.equal(total / count, torch.true_divide(*boundary_loss(scores, refined, batch["inside"])))
    with pytest.raises(ValueError, match="CRF"):
        boundary_objective()(batch, scores, Targets(labels))


def test_expansion_learns_from_tags() -> None:
    torch.manual_seed(0)
    scores, present = torch.randn(2, 3, 4, 4), torch.tensor([[True, True, False], [True, False, False]])
    decays = {"present_decay": 0.5, "background_decay": 0.6, "absent_decay": 0.1}
    batch = {"present": present, "inside": torch.arange(16).reshape(1, 4, 4).repeat(2, 1, 1) < 12}
    total, _ = expansion_objective(**decays)(batch, scores, Targets(torch.zeros(2, 4, 4)))["expansion"]
    assert torch.equal(total, expansion_loss(scores, present, **decays, inside=batch["inside"])[0])
    with pytest.raises(SettingsError, match="absent_decay"):
        expansion_objective(absent_decay=2)


def test_no_loss_waits_for_the_device() -> None:
    """Meta tensors have no values that the host could ask for."""
    scores = torch.zeros(2, 3, 4, 4, device="meta")
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8, device="meta")
    batch = {name: torch.ones(2, *shape, dtype=torch.bool, device="meta") for name, shape in SHAPES.items()}
    sec = seed_objective() + balanced_seed_objective() + expansion_objective() + boundary_objective()
    for total, count in sec(batch, scores, Targets(labels, scores)).values():
        assert total.shape == count.shape == ()
