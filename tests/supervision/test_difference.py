import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tag2mask.errors import SettingsError
from tag2mask.networks.difference_net import DifferenceNet
from tag2mask.refine.dense_crf import dense_crf
from tag2mask.supervision.difference import Branch, DynamicRefinement, DynamicStep
from tag2mask.supervision.growing import SoftmaxCRF

CLASSES, HEIGHT, WIDTH = 4, 6, 7
CRF = {"iterations": 2, "bilateral_sxy": 4.0, "bilateral_srgb": 60.0, "bilateral_weight": 4.0}
TAGS = ([0, 1, 2], [0, 2, 3], [0, 3])
SHOWN = (WIDTH, WIDTH - 2, WIDTH)  # the second photograph is narrower than the grid


class Inputs(NamedTuple):
    main: Branch
    sub: Branch
    early: Tensor | None
    seeds: Tensor
    present: Tensor
    inside: Tensor
    image_on_grid: Tensor

    def only(self, row: int) -> "Inputs":
        def one(value: Any) -> Any:
            return Branch(*map(one, value)) if isinstance(value, Branch) else value[row : row + 1]

        return Inputs(*map(one, self))


class Told(SoftmaxCRF):
    """A CRF whose answer is one class everywhere, or what it is given."""

    def __init__(self, channel: int | None) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, images: Tensor, probabilities: Tensor, inside: Tensor) -> Tensor:
        if self.channel is None:
            return probabilities
        answer = torch.zeros_like(probabilities)
        answer[:, self.channel] = 1
        return answer


@pytest.fixture
def inputs() -> Inputs:
    generator = torch.Generator().manual_seed(0)
    n = len(TAGS)

    def drawn(channels: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(n, channels, HEIGHT, WIDTH, generator=generator)).requires_grad_()

    present, inside = torch.zeros(n, CLASSES, dtype=torch.bool), torch.zeros(n, HEIGHT, WIDTH, dtype=torch.bool)
    seeds = torch.full((n, HEIGHT, WIDTH), 255, dtype=torch.uint8)
    for row, (tags, shown) in enumerate(zip(TAGS, SHOWN, strict=True)):
        present[row, tags] = True
        inside[row, :, :shown] = True
        drawn_tags = torch.randint(0, len(tags), (HEIGHT, shown), generator=generator)
        seeds[row, :, :shown] = torch.tensor(tags, dtype=torch.uint8)[drawn_tags]
    seeds[0, 0, :3] = 255  # unlabelled inside the photograph
    images = torch.randint(0, 256, (n, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    main, sub = (Branch(drawn(CLASSES, 2.0), drawn(5)) for _ in range(2))
    return Inputs(main, sub, drawn(3), seeds, present, inside, images)


def refinement(crf: SoftmaxCRF | None = None, *, frozen_norm: bool = True, **settings: Any) -> DynamicRefinement:
    """With random weights large enough that the maps matter."""
    torch.manual_seed(1)
    nets = [DifferenceNet(5, 3, CLASSES, width=6, frozen_norm=frozen_norm) for _ in range(2)]
    for net in nets:
        nn.init.normal_(net.score.weight)
    made: Any = crf or SoftmaxCRF(**CRF, shrink=1.0)
    return DynamicRefinement(*nets, made, **settings)


def plain_mask(scores: Tensor, row: int) -> Tensor:
    """Arg max over the tagged classes, where the photograph is."""
    found, scores = torch.full((HEIGHT, WIDTH), 255, dtype=torch.uint8), scores.detach()
    for y in range(HEIGHT):
        for x in range(SHOWN[row]):
            found[y, x] = max(TAGS[row], key=lambda c: float(scores[row, c, y, x]))
    return found


def plain_refined(before: Tensor, after: Tensor, d: tuple[Tensor, Tensor], row: int, bias: float) -> Tensor:
    """SSDD's rule, pixel by pixel, of one photograph."""
    tags = [tag for tag in TAGS[row] if tag]
    counts = {tag: (int((before == tag).sum()), int((after == tag).sum())) for tag in tags}
    lost = {tag for tag, (was, remains) in counts.items() if was and remains / was < 0.5}
    refined = before.clone()
    for y in range(HEIGHT):
        for x in range(WIDTH):
            b, a = int(before[y, x]), int(after[y, x])
            trust = d[0][y, x].detach().sigmoid() - d[1][y, x].detach().sigmoid()
            w = float(trust) + bias + (a in lost) - (b in lost)
            if w >= 0:
                refined[y, x] = a
    return refined


def test_masks_are_refined_twice_among_tagged_classes(inputs: Inputs) -> None:
    module = refinement(bias=0.1)
    step: DynamicStep = module(*inputs)
    taken = set()
    for row, (tags, shown) in enumerate(zip(TAGS, SHOWN, strict=True)):
        assert torch.equal(step.seg[row], plain_mask(inputs.main.scores, row))
        assert torch.equal(step.sub[row], plain_mask(inputs.sub.scores, row))
        # Only tagged classes take part in the CRF, and only the photograph: it is solved without anything else.
        photo = inputs.image_on_grid[row, :, :, :shown].permute(1, 2, 0).contiguous()
        softmax = inputs.main.scores.detach()[row, tags, :, :shown].softmax(0)
        solved = torch.full((len(TAGS), CLASSES, HEIGHT, WIDTH), -1.0)
        solved[row, tags, :, :shown] = dense_crf(photo, softmax, **CRF)  # type: ignore[arg-type]
        assert torch.equal(step.crf[row], plain_mask(solved, row))
        first, second = (step.d_seg[row], step.d_crf[row]), (step.d_ssdd0[row], step.d_second[row])
        assert torch.equal(step.ssdd1[row], plain_refined(step.seg[row], step.crf[row], first, row, 0.1))
        assert torch.equal(step.ssdd2[row], plain_refined(inputs.seeds[row], step.ssdd1[row], second, row, 0.1))
        differ = step.seg[row] != step.crf[row]
        taken |= {bool(value) for value in (step.ssdd1[row] == step.crf[row])[differ]}
        assert set(step.ssdd2[row].unique().tolist()) <= {*tags, 255}
        assert (step.ssdd2[row, :, shown:] == 255).all()
    assert taken == {True, False}  # some changes are trusted and some are not
    assert step.ssdd2.dtype == torch.uint8
    assert not torch.equal(step.crf, step.seg)


def test_each_network_sees_its_branch(inputs: Inputs) -> None:
    module = refinement()
    step = module(*inputs)
    first = module.difference_crf.shared(inputs.main.hidden, inputs.early)
    second = module.difference_seed.shared(inputs.sub.hidden, inputs.early)
    for d, net, shared, mask in (
        (step.d_seg, module.difference_crf, first, step.seg),
        (step.d_crf, module.difference_crf, first, step.crf),
        (step.d_ssdd0, module.difference_seed, second, inputs.seeds),
        (step.d_second, module.difference_seed, second, step.ssdd1),
    ):
        assert torch.allclose(d, net(shared, mask), atol=1e-5)


def test_the_four_losses(inputs: Inputs) -> None:
    module = refinement(alpha=0.3)
    step = module(*inputs)
    losses = module.losses(step, inputs.main, inputs.sub)
    assert list(losses) == ["segmentation_main", "segmentation_sub", "difference_crf", "difference_seed"]
    found = {name: float((total / count.clamp(min=1)).detach()) for name, (total, count) in losses.items()}

    def plain_cross_entropy(scores: Tensor, mask: Tensor) -> float:
        log_p = scores.detach().log_softmax(1)
        chosen = [-float(log_p[n, int(mask[n, y, x]), y, x]) for n, y, x in (mask != 255).nonzero().tolist()]
        return sum(chosen) / len(chosen)

    def plain_difference(d: Tensor, mask: Tensor, other: Tensor, rows: list[int]) -> float:
        """Mean over photographs of half the mean where the masks differ and half that where they agree."""
        values = []
        for n in rows:
            halves: dict[bool, list[float]] = {True: [], False: []}
            for y in range(HEIGHT):
                for x in range(SHOWN[n]):
                    if mask[n, y, x] != 255:
                        differs = bool(mask[n, y, x] != other[n, y, x])
                        p = float(d[n, y, x].detach().sigmoid())
                        halves[differs].append(-math.log(p if differs else 1 - p))
            values.append(sum(sum(half) / len(half) / 2 for half in halves.values() if half))
        return sum(values) / len(values)

    rows = step.good.nonzero()[:, 0].tolist()
    assert found["segmentation_main"] == pytest.approx(plain_cross_entropy(inputs.main.scores, step.ssdd2), rel=1e-5)
    on_seeds = plain_cross_entropy(inputs.sub.scores, inputs.seeds)
    on_refined = plain_cross_entropy(inputs.sub.scores, step.ssdd2)
    assert found["segmentation_sub"] == pytest.approx(0.3 * on_seeds + 0.7 * on_refined, rel=1e-5)
    assert rows
    crf = [plain_difference(d, step.seg, step.crf, rows) for d in (step.d_seg, step.d_crf)]
    assert found["difference_crf"] == pytest.approx(sum(crf) / 4, rel=1e-4)
    everyone = list(range(len(TAGS)))
    seed = [
        plain_difference(step.d_ssdd0, inputs.seeds, step.sub, everyone),
        plain_difference(step.d_second, step.ssdd1, step.sub, everyone),
    ]
    assert found["difference_seed"] == pytest.approx(sum(seed) / 4, rel=1e-4)


def test_the_authors_second_pair(inputs: Inputs) -> None:
    plain, theirs = refinement()(*inputs), refinement(second_pair="ssdd2")(*inputs)
    assert torch.equal(plain.ssdd2, theirs.ssdd2)
    assert not torch.equal(theirs.ssdd2, theirs.ssdd1)
    assert plain.second is plain.ssdd1
    assert theirs.second is theirs.ssdd2
    module = refinement()
    shared = module.difference_seed.shared(inputs.sub.hidden, inputs.early)
    assert torch.allclose(theirs.d_second, module.difference_seed(shared, theirs.ssdd2), atol=1e-5)


def test_gradients_keep_apart(inputs: Inputs) -> None:
    module = refinement()
    losses = module.losses(module(*inputs), inputs.main, inputs.sub)
    ours = [inputs.main.scores, inputs.main.hidden, inputs.sub.scores, inputs.sub.hidden]
    assert inputs.early is not None
    ours.append(inputs.early)
    for name, net, other in (
        ("difference_crf", module.difference_crf, module.difference_seed),
        ("difference_seed", module.difference_seed, module.difference_crf),
    ):
        losses[name][0].backward(retain_graph=True)
        assert all(tensor.grad is None for tensor in ours)
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in trained)
        if name == "difference_crf":
            assert all(parameter.grad is None for parameter in other.parameters())
        module.zero_grad()
    losses["segmentation_main"][0].backward()
    assert inputs.main.scores.grad is not None
    assert inputs.sub.scores.grad is None
    losses["segmentation_sub"][0].backward()
    assert inputs.sub.scores.grad is not None
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not inputs.main.scores.grad[1, :, :, SHOWN[1] :].any()  # nothing is learnt from padding


def test_samples_whose_classes_are_lost_are_left_out(inputs: Inputs) -> None:
    """The CRF takes all to background, which loses every class, or changes nothing."""
    module = refinement(Told(0), bias=0.0)
    step = module(*inputs)
    assert not step.good.any()
    losses = module.losses(step, inputs.main, inputs.sub)
    total, count = losses["difference_crf"]
    assert (float(total.detach()), int(count)) == (0, 0)
    total.backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in module.difference_crf.parameters())
    assert int(losses["difference_seed"][1]) == len(TAGS)  # which leaves no sample out
    # A class that is lost is kept where the mask before has it, whatever the networks say.
    assert torch.equal(step.ssdd1, step.seg)
    without = refinement(Told(0), class_bias=0.0, bias=1.0)(*inputs)
    assert torch.equal(without.ssdd1, without.crf)

    module = refinement(Told(None))
    step = module(*inputs)
    assert step.good.all()
    total, count = module.losses(step, inputs.main, inputs.sub)["difference_crf"]
    assert int(count) == len(TAGS)
    assert float(total.detach()) > 0


def test_photographs_do_not_depend_on_each_other(inputs: Inputs) -> None:
    module = refinement()
    whole = module(*inputs)
    for row in range(len(TAGS)):
        alone = module(*inputs.only(row))
        for name, value in alone._asdict().items():
            assert torch.allclose(value[0].float(), getattr(whole, name)[row].float(), atol=1e-5), (row, name)


def test_a_pair_is_normalised_together(inputs: Inputs) -> None:
    module = refinement(frozen_norm=False)
    module(*inputs)
    for net in (module.difference_crf, module.difference_seed):
        norm: Any = net.mask[1]
        assert int(norm.num_batches_tracked) == 1


def test_half_precision(inputs: Inputs) -> None:
    module = refinement(frozen_norm=False)
    with torch.autocast("cpu", torch.bfloat16):
        step = module(*inputs)
        losses = module.losses(step, inputs.main, inputs.sub)
    assert torch.equal(step.seg, refinement()(*inputs).seg)
    total = torch.stack([total for total, _ in losses.values()]).sum()
    assert total.dtype == torch.float32
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_without_labels_or_photograph_nothing_is_learnt(inputs: Inputs) -> None:
    empty = inputs._replace(inside=torch.zeros_like(inputs.inside), seeds=torch.full_like(inputs.seeds, 255))
    module = refinement()
    step = module(*empty)
    assert (step.ssdd2 == 255).all()
    losses = module.losses(step, empty.main, empty.sub)
    total = torch.stack([total for total, _ in losses.values()]).sum()
    assert float(total.detach()) == 0
    total.backward()
    assert inputs.main.scores.grad is not None
    assert not inputs.main.scores.grad.any()


def test_scores_that_are_not_finite(inputs: Inputs) -> None:
    scores = inputs.main.scores.detach().clone()
    scores[0, 1, 2, 3] = torch.nan
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        refinement()(*inputs._replace(main=Branch(scores, inputs.main.hidden)))


@pytest.mark.parametrize(
    ("wrong", "message"), [({"alpha": 1.1}, "alpha must lie"), ({"second_pair": "sub"}, "ssdd1, ssdd2")]
)
def test_impossible_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        refinement(**wrong)
