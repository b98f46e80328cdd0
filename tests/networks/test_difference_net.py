import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from tag2mask.data.classes import UNLABELLED
from tag2mask.errors import DataError, SettingsError, WeightsError
from tag2mask.losses.difference import difference_loss
from tag2mask.networks.difference_net import (
    FORMAT,
    DifferenceNet,
    load_difference_nets,
    read_difference_settings,
    save_difference_nets,
)
from tag2mask.refine.difference import difference_map, refine_pair

CLASSES = 3
GRID = 16


class Pairs(NamedTuple):
    """Pairs of masks, their truth, and what a network makes of the photographs."""

    features: Tensor
    before: Tensor
    after: Tensor
    truth: Tensor


def pairs(images: int, seed: int) -> Pairs:
    """One object per image, which the features show in noise.

    `before` lacks one half of half of the objects. Features and `before` together tell where; features and `after`,
    which never lacks one, cannot. `after` has other labels in random places, of which features and `before` tell
    nothing.
    """
    random = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (images, 1, 1), generator=random)

    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    top, left, size = integers(0, 6), integers(0, 6), integers(6, 11)
    shape = (y >= top) & (y < top + size) & (x >= left) & (x < left + size)
    truth = torch.where(shape, integers(1, CLASSES), 0)
    lacking = (integers(0, 2) == 1) & torch.where(integers(0, 2) == 1, x >= left + size // 2, y >= top + size // 2)
    wrong = torch.rand(truth.shape, generator=random) < 0.1
    after = torch.where(wrong, torch.randint(0, CLASSES, truth.shape, generator=random), truth)
    noise = torch.randn(images, CLASSES, GRID, GRID, generator=random)
    features = F.one_hot(truth, CLASSES).permute(0, 3, 1, 2) + 0.5 * noise
    return Pairs(features, truth.masked_fill(lacking, 0), after, truth)


def trained(steps: int) -> DifferenceNet:
    torch.manual_seed(0)
    network = DifferenceNet(CLASSES, 0, CLASSES, width=16)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(steps):
        batch = pairs(8, seed=step)
        shared, differs = network.shared(batch.features, None), difference_map(batch.before, batch.after)
        terms = [difference_loss(network(shared, masks), differs) for masks in (batch.before, batch.after)]
        optimiser.zero_grad()
        torch.stack([value / count for value, count in terms]).mean().backward()
        optimiser.step()
    return network.eval()


def refined(network: DifferenceNet, data: Pairs) -> Tensor:
    with torch.no_grad():
        shared = network.shared(data.features, None)
        told = [network(shared, masks) for masks in (data.before, data.after)]
    present = torch.ones(len(data.truth), CLASSES, dtype=torch.bool)
    return refine_pair(data.before, data.after, told[0], told[1], present, bias=0.1)


def test_dd_net_learns_which_changes_to_trust() -> None:
    data = pairs(64, seed=-1)
    quality = {
        name: float((masks == data.truth).float().mean()) for name, masks in data._asdict().items() if name[0] in "ab"
    }
    before, after = quality["before"], quality["after"]
    found = float((refined(trained(60), data) == data.truth).float().mean())
    assert found > max(before, after) + 0.02, (before, after, found)
    # A network that has seen nothing takes one of the masks nearly as it is.
    assert float((refined(trained(0), data) == data.truth).float().mean()) <= max(before, after) + 0.005


def small(**arguments: int | bool) -> DifferenceNet:
    torch.manual_seed(0)
    return DifferenceNet(**{"high": 6, "low": 4, "classes": CLASSES, "width": 8} | arguments)


HIGH = torch.linspace(-2, 2, 2 * 6 * 5 * 4).view(2, 6, 5, 4).sin()
LOW = torch.linspace(-3, 2, 2 * 4 * 10 * 8).view(2, 4, 10, 8).cos()
MASKS = torch.arange(2 * 5 * 4).view(2, 5, 4) % CLASSES


def test_the_layers_are_those_of_the_page() -> None:
    network = DifferenceNet(512, 128, 21)
    shapes = [tuple(value.shape) for value in network.parameters() if value.ndim == 4]
    assert shapes == [
        (256, 640, 3, 3),
        (256, 21, 1, 1),
        (256, 512, 1, 1),
        (256, 256, 3, 3),
        (256, 256, 1, 1),
        (256, 512, 1, 1),
        (1, 256, 1, 1),
    ]
    assert network.head[0].padding_mode == "reflect"
    assert network.score.bias is None


def test_logits_are_float32_on_the_grid_of_the_high_features() -> None:
    network = small().eval()
    logits = network(network.shared(HIGH, LOW), MASKS)
    assert logits.shape == MASKS.shape
    assert logits.dtype == torch.float32
    pooled = network.shared(HIGH, F.avg_pool2d(LOW, 2))
    assert torch.allclose(logits, network(pooled, MASKS), atol=1e-5)
    assert not torch.allclose(logits, network(network.shared(HIGH, -LOW), MASKS), atol=1e-3)


def test_the_mask_matters_and_its_type_does_not() -> None:
    network = small().eval()
    shared = network.shared(HIGH, LOW)
    logits = network(shared, MASKS)
    assert torch.equal(logits, network(shared, MASKS.to(torch.uint8)))
    assert not torch.allclose(logits, network(shared, (MASKS + 1) % CLASSES), atol=1e-3)


def test_an_unlabelled_pixel_is_of_no_class() -> None:
    network = small()
    seen: list[Tensor] = []
    network.mask.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    masks = MASKS.clone()
    masks[0, 0, 0] = UNLABELLED
    network(network.shared(HIGH, LOW), masks)
    assert not seen[0][0, :, 0, 0].any()
    others = masks != UNLABELLED
    assert torch.equal(seen[0].argmax(1)[others], masks[others])
    assert torch.equal(seen[0].sum(1), others.float())


def test_no_gradient_goes_back_into_the_features() -> None:
    network, high, low = small(), HIGH.clone().requires_grad_(), LOW.clone().requires_grad_()
    network(network.shared(high, low), MASKS).sum().backward()
    assert high.grad is low.grad is None
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_without_low_level_features() -> None:
    network = small(low=0).eval()
    assert network(network.shared(HIGH, None), MASKS).shape == MASKS.shape


def test_half_precision_features_and_autocast() -> None:
    network = small().eval()
    expected = network(network.shared(HIGH, LOW), MASKS)
    kept = network(network.shared(HIGH.bfloat16(), LOW.half()), MASKS)
    assert torch.allclose(kept, expected, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(network.shared(HIGH.bfloat16(), LOW), MASKS)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, atol=0.05)


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_norms_stay_near_the_identity(frozen: bool) -> None:
    network = small(frozen_norm=frozen)
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    network(network.shared(HIGH, LOW), MASKS)
    network.eval().train()
    network(network.shared(HIGH, LOW), MASKS)
    assert len(norms) == 6
    for norm in norms:
        assert norm.training is not frozen
        assert norm.running_var is not None
        assert torch.equal(norm.running_var, torch.ones_like(norm.running_var)) is frozen


@pytest.mark.parametrize("impossible", [{"high": 0}, {"low": -1}, {"width": 0}, {"classes": 0}, {"classes": 256}])
def test_impossible_sizes(impossible: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="difference network takes"):
        small(**impossible)


@pytest.mark.parametrize(
    ("high", "low"),
    [
        (HIGH[:, :5], LOW),
        (HIGH, LOW[:, :3]),
        (HIGH, None),
        (HIGH, LOW[:1]),
        (HIGH[0], LOW),
        (HIGH, LOW[0]),
        (HIGH[..., :1], LOW),
    ],
)
def test_features_that_do_not_fit(high: Tensor, low: Tensor | None) -> None:
    with pytest.raises(DataError, match="takes 6 high-level and 4 low-level features"):
        small().shared(high, low)


@pytest.mark.parametrize("masks", [MASKS[:1], MASKS[:, :4], MASKS.float(), MASKS.bool()])
def test_masks_that_do_not_fit(masks: Tensor) -> None:
    network = small()
    with pytest.raises(DataError, match="masks must be integers"):
        network(network.shared(HIGH, LOW), masks)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    nets = {"crf": small(), "seed": small(low=0, frozen_norm=True)}
    save_difference_nets(tmp_path / "nets.safetensors", nets, {"low": "blocks.0", "stride": 4})
    return tmp_path / "nets.safetensors"


def test_what_is_saved_is_loaded(path: Path) -> None:
    loaded = load_difference_nets(path)
    assert list(loaded) == ["crf", "seed"]
    assert not any(net.training for net in loaded.values())
    expected = small().eval()
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded["crf"].state_dict()[name], value), name
    logits = loaded["crf"](loaded["crf"].shared(HIGH, LOW), MASKS)
    assert torch.allclose(logits, expected(expected.shared(HIGH, LOW), MASKS), atol=1e-6)
    assert loaded["seed"].arguments == small(low=0, frozen_norm=True).arguments
    assert all(parameter.requires_grad for parameter in loaded["seed"].parameters())
    assert read_difference_settings(path) == {"low": "blocks.0", "stride": 4}


def test_the_same_networks_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    nets = {"seed": small(low=0, frozen_norm=True), "crf": small()}
    save_difference_nets(tmp_path / "again", nets, {"stride": 4, "low": "blocks.0"})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def refuses(path: Path, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        load_difference_nets(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refuses(tmp_path / "none", "there is no such file")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut_short(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refuses(path, "not a whole file")


def test_a_file_of_something_else(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)
    refuses(path, "no file of difference networks written by tag2mask")


ARGUMENTS = {"high": 6, "low": 4, "classes": 3, "width": 8, "frozen_norm": False}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "header of this file of difference networks is damaged"),
        ("[]", "header of this file of difference networks is damaged"),
        ('{"version": 1}', "damaged .'nets' is missing"),
        ({"nets": []}, "networks and settings are no mappings"),
        ({"version": 2}, "version 2; this tag2mask reads version 1"),
        ({"nets": {"crf": {"width": 10**9}}}, "do not fit the header"),
        ({"nets": {"crf": ARGUMENTS | {"width": 10**9}}}, "do not fit the header"),
        ({"nets": {"crf": ARGUMENTS | {"width": -1}}}, "do not fit the header"),
        ({"nets": {"crf": ARGUMENTS | {"width": "8"}}}, "do not fit the header"),
        ({"nets": {"crf": ARGUMENTS}}, "do not fit the header"),
    ],
)
def test_a_header_that_is_damaged(path: Path, header: str | dict[str, object], message: str) -> None:
    text = header if isinstance(header, str) else json.dumps({"version": 1, "nets": {}, "settings": {}} | header)
    save_file(load_file(path), path, {FORMAT: text})
    refuses(path, message)
