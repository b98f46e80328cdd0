"""The wide ResNet-38: the published layout written out once more, strides that agree, and the MXNet file's reader."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tag2mask.errors import WeightsError
from tag2mask.networks.backbones import Backbone, create_backbone
from tag2mask.networks.resnet38 import OUTPUT_STRIDES, PreActivationBlock, ResNet38, read_params, to_torch_names

# name -> stride, first dilation, dilation in PSA's network; channels of the input and of each convolution
BLOCKS: dict[str, tuple[tuple[int, int, int], tuple[int, ...]]] = {
    "b2": ((2, 1, 1), (64, 128, 128)),
    "b2_1": ((1, 1, 1), (128, 128, 128)),
    "b2_2": ((1, 1, 1), (128, 128, 128)),
    "b3": ((2, 1, 1), (128, 256, 256)),
    "b3_1": ((1, 1, 1), (256, 256, 256)),
    "b3_2": ((1, 1, 1), (256, 256, 256)),
    "b4": ((2, 1, 1), (256, 512, 512)),
    "b4_1": ((1, 1, 1), (512, 512, 512)),
    "b4_2": ((1, 1, 1), (512, 512, 512)),
    "b4_3": ((1, 1, 1), (512, 512, 512)),
    "b4_4": ((1, 1, 1), (512, 512, 512)),
    "b4_5": ((1, 1, 1), (512, 512, 512)),
    "b5": ((1, 1, 2), (512, 512, 1024)),
    "b5_1": ((1, 2, 2), (1024, 512, 1024)),
    "b5_2": ((1, 2, 2), (1024, 512, 1024)),
    "b6": ((1, 1, 4), (1024, 512, 1024, 2048)),
    "b7": ((1, 1, 4), (2048, 1024, 2048, 4096)),
}
BRANCH = ("2a", "2b1", "2b2")
NORM = ("weight", "bias", "running_mean", "running_var")
DEPTHS = ["b5.act", "b6.act", "bn7"]


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of the published trunk, but for the counts of batches."""
    shapes: dict[str, tuple[int, ...]] = {"conv1a.weight": (64, 3, 3, 3)}
    norms = {"bn7": 4096}
    for name, (_, widths) in BLOCKS.items():
        kernels = (3, 3) if len(widths) == 3 else (1, 3, 1)
        for branch, kernel, inputs, outputs in zip(BRANCH, kernels, widths[:-1], widths[1:], strict=False):
            shapes[f"{name}.conv_branch{branch}.weight"] = (outputs, inputs, kernel, kernel)
            norms[f"{name}.bn_branch{branch}"] = inputs
        if "_" not in name:
            shapes[f"{name}.conv_branch1.weight"] = (widths[-1], widths[0], 1, 1)
    return shapes | {f"{norm}.{field}": (channels,) for norm, channels in norms.items() for field in NORM}


def reference(state: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """PSA's network at stride 8 from its definition: the sums after each block and the activated depths."""

    def activate(features: Tensor, norm: str) -> Tensor:
        weight, bias, mean, variance = (state[f"{norm}.{field}"] for field in NORM)
        return F.relu(F.batch_norm(features, mean, variance, weight, bias))

    found = {}
    features = F.conv2d(images, state["conv1a.weight"], padding=1)
    for name, ((stride, first, dilation), widths) in BLOCKS.items():
        activated = activate(features, f"{name}.bn_branch2a")
        found[f"{name}.act"] = activated
        residual = activated
        for index, branch in enumerate(BRANCH[: len(widths) - 1]):
            if index:
                residual = activate(residual, f"{name}.bn_branch{branch}")
            weight = state[f"{name}.conv_branch{branch}.weight"]
            spacing = (dilation if index else first) if weight.shape[-1] == 3 else 1
            step = 1 if index else stride
            residual = F.conv2d(residual, weight, None, step, spacing * (weight.shape[-1] // 2), spacing)
        if "_" not in name:
            features = F.conv2d(activated, state[f"{name}.conv_branch1.weight"], stride=stride)
        features = found[name] = features + residual
    found["bn7"] = activate(features, "bn7")
    return found


@pytest.fixture(scope="module")
def _network() -> Backbone:
    torch.manual_seed(0)
    backbone = create_backbone("resnet38", output_stride=8, weights="none").eval()
    with torch.no_grad():
        for name, tensor in backbone.network.state_dict().items():
            if "num_batches" in name:
                continue
            if "bn" in name:
                tensor.uniform_(0.5, 1.5)
            elif not tensor.any():  # residuals that start at zero
                nn.init.normal_(tensor, std=0.5 / tensor[0].numel() ** 0.5)
    return backbone


@pytest.fixture
def network(_network: Backbone) -> Iterator[Backbone]:
    """The whole network with no silent branch; what a test freezes or trains is undone."""
    yield _network
    _network.zero_grad()
    _network.freeze(None)
    _network.eval()


def images(height: int = 41, width: int = 27) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_parameters_are_the_published(network: Backbone) -> None:
    shapes = published_shapes()
    tensors = network.network.state_dict()
    assert {key: tuple(value.shape) for key, value in tensors.items() if "num_batches" not in key} == shapes
    trained = [shape for key, shape in shapes.items() if "running" not in key]
    assert sum(parameter.numel() for parameter in network.parameters()) == sum(map(np.prod, trained)) == 105_070_912


def test_equals_the_definition(network: Backbone) -> None:
    batch = images()
    blocks = ["b2", "b4_5", "b5.act", "b5", "b5_2", "b6.act", "b6", "b7", "bn7"]
    with torch.no_grad():
        expected = reference(network.network.state_dict(), batch)
        found = network.features_at(batch, blocks)
        torch.testing.assert_close(network(batch), found[-1], atol=0, rtol=0)
    for block, features in zip(blocks, found, strict=True):
        # Up to the rounding of batch norms that are worked into convolutions.
        torch.testing.assert_close(features, expected[block], atol=1e-5 * float(expected[block].abs().max()), rtol=0)


def test_depths_have_their_channels_and_stride(network: Backbone) -> None:
    with torch.no_grad():
        found = network.features_at(images(), DEPTHS)
    assert [tuple(features.shape) for features in found] == [(2, 512, 6, 4), (2, 1024, 6, 4), (2, 4096, 6, 4)]
    assert [network.channels_of(block) for block in ("stem", *DEPTHS)] == [64, 512, 1024, 4096]
    assert [network.stride_of(block) for block in ("stem", "b2", "b3", *DEPTHS)] == [1, 2, 4, 8, 8, 8]
    assert (network.block, network.channels, network.stride) == ("bn7", 4096, 8)
    assert network.mean == pytest.approx((0.485, 0.456, 0.406))
    assert network.std == pytest.approx((0.229, 0.224, 0.225))


@pytest.mark.parametrize("output_stride", [16, 32])
def test_coarser_features_are_a_grid_of_the_fine(network: Backbone, output_stride: int) -> None:
    """Without pools every cell of a strided network sees just what the dilated one sees there."""
    with torch.device("meta"):
        coarse = ResNet38(output_stride).eval()
    coarse.load_state_dict(network.network.state_dict(), assign=True)
    batch = images(75, 50)
    with torch.no_grad():
        features = coarse.b2.get_submodule("bn_branch2a")(coarse.conv1a(batch))
        for name, block in coarse.blocks.items():
            features = block(
                block.get_submodule("bn_branch2a")(features) if name != "b2" and block.projects else features
            )
        features, fine = coarse.bn7(features), network(batch)
    skip = output_stride // 8
    assert features.shape[2:] == (-(-75 // output_stride), -(-50 // output_stride))
    torch.testing.assert_close(features, fine[:, :, ::skip, ::skip], atol=1e-5 * float(fine.max()), rtol=0)


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
def test_dilations(output_stride: int) -> None:
    with torch.device("meta"):
        blocks = ResNet38(output_stride).blocks
    dilations = {
        name: [module.dilation[0] for module in block.modules() if isinstance(module, nn.Conv2d) and module.padding[0]]
        for name, block in blocks.items()
    }
    late = {8: ([1, 2], [2, 2], [4], [4]), 16: ([1, 1], [1, 1], [2], [2]), 32: ([1, 1], [1, 1], [1], [1])}
    assert [dilations[name] for name in ("b5", "b5_1", "b6", "b7")] == list(late[output_stride])
    assert all(dilations[name] == [1, 1] for name in blocks if name < "b5")


def test_continuing_from_a_block_is_exact(network: Backbone) -> None:
    assert network.cacheable
    batch = images()
    with torch.no_grad():
        expected = network(batch)
        for block in ("stem", "b2_2", "b4_5", "b5.act", "b5", "b6.act", "b6", "b7"):
            features = network.encode(batch, block)
            kept = features.clone()
            assert torch.equal(network.forward_from(features, block), expected), block
            assert torch.equal(features, kept), block


def test_a_cut_network_gives_the_same_features(network: Backbone) -> None:
    cut = create_backbone("resnet38", output_stride=8, block="b3.act", weights="none").eval()
    assert cut.blocks == ("stem", "b2", "b2_1", "b2_2", "b3.act")
    assert {key for key in cut.state_dict() if ".b3." in key} == {
        f"network.b3.bn_branch2a.{field}" for field in (*NORM, "num_batches_tracked")
    }
    cut.load_state_dict({key: value for key, value in network.state_dict().items() if key in cut.state_dict()})
    with torch.no_grad():
        assert torch.equal(cut(images()), network.encode(images(), "b3.act"))


def test_freezing(network: Backbone) -> None:
    network.freeze("b5.act")
    network.train()
    network(images(16, 16)).mean().backward()
    for name, parameter in network.network.named_parameters():
        trains = name.startswith(("b5", "b6", "b7")) and "conv" in name
        assert (parameter.grad is not None) == trains, name
        assert parameter.requires_grad == trains, name
    assert float(network.network.get_parameter("b5.conv_branch1.weight").grad.abs().max()) > 0  # type: ignore[union-attr]


def test_dropout_is_in_the_bottlenecks_alone(network: Backbone) -> None:
    rates = {module.p for module in network.modules() if isinstance(module, nn.Dropout2d)}
    assert rates == {0.0, 0.3, 0.5}
    network.train()
    torch.manual_seed(0)
    with torch.no_grad():
        (*still, first), (*again, second) = (network.features_at(images(16, 16), DEPTHS) for _ in range(2))
        assert all(torch.equal(one, other) for one, other in zip(still, again, strict=True))
        assert not torch.equal(first, second)
        network.freeze("bn7")
        assert torch.equal(network(images(16, 16)), network(images(16, 16)))


def test_untrained_residuals_start_at_zero() -> None:
    torch.manual_seed(0)
    shared = {"kernels": (3, 3), "first_dilation": 1, "dilation": 1, "dropout": 0.0}
    same = PreActivationBlock(4, (6, 4), stride=1, **shared)  # type: ignore[arg-type]
    halving = PreActivationBlock(4, (6, 4), stride=2, **shared)  # type: ignore[arg-type]
    features = torch.randn(1, 4, 5, 5)
    assert not torch.equal(same(features), features)
    same.initialise()
    halving.initialise()
    assert torch.equal(same(features), features)
    assert (same.projects, halving.projects) == (False, True)
    assert all(module.weight.all() for module in halving.modules() if isinstance(module, nn.Conv2d))


# the published MXNet file


def mxnet_names() -> dict[str, str]:
    """Names in the published file -> names of the trunk."""
    names = {"conv1a_weight": "conv1a.weight"}
    fields = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
    for name in BLOCKS:
        level, _, index = name[1:].partition("_")
        place = f"{level}b{index}" if index else f"{level}a"
        branches = BRANCH if name in ("b6", "b7") else BRANCH[:2]
        for branch in branches:
            names[f"res{place}_branch{branch}_weight"] = f"{name}.conv_branch{branch}.weight"
            for mxnet, ours in fields.items():
                names[f"bn{place}_branch{branch}_{mxnet}"] = f"{name}.bn_branch{branch}.{ours}"
        if not index:
            names[f"res{place}_branch1_weight"] = f"{name}.conv_branch1.weight"
    return names | {f"bn7_{mxnet}": f"bn7.{ours}" for mxnet, ours in fields.items()}


def packed(array: NDArray[np.generic], version: str) -> bytes:
    """One array as a version of mxnet.nd.save wrote it."""
    shape = struct.pack("<I", array.ndim)
    shape += struct.pack(f"<{array.ndim}{'I' if version == 'legacy' else 'q'}", *array.shape)
    head = {
        "legacy": b"",
        "V1": struct.pack("<I", 0xF993FAC8),
        "V2": struct.pack("<Ii", 0xF993FAC9, 0),
        "V3": struct.pack("<Ii", 0xF993FACA, 0),
    }[version]
    kind = {"f4": 0, "f8": 1, "f2": 2}[array.dtype.str[1:]]
    return head + shape + struct.pack("<iii", 1, 0, kind) + array.tobytes()


def write_params(path: Path, arrays: dict[str, NDArray[np.generic]], version: str = "V2") -> Path:
    content = struct.pack("<QQQ", 0x112, 0, len(arrays))
    content += b"".join(packed(array, version) for array in arrays.values()) + struct.pack("<Q", len(arrays))
    path.write_bytes(content + b"".join(struct.pack("<Q", len(name)) + name.encode() for name in arrays))
    return path


def test_every_tensor_has_a_name_in_the_published_file() -> None:
    names = mxnet_names()
    arrays = {name: np.full(1, index, np.float32) for index, name in enumerate(names)}
    classifier = {"linear1000_weight": np.zeros(1, np.float32), "linear1000_bias": np.zeros(1, np.float32)}
    renamed = to_torch_names(arrays | classifier)
    assert set(renamed) == set(published_shapes())
    assert {name: int(renamed[ours]) for name, ours in names.items()} == dict(
        zip(names, range(len(names)), strict=True)
    )


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2"])
@pytest.mark.parametrize("version", ["legacy", "V1", "V2", "V3"])
def test_reads_all_versions_of_the_format(tmp_path: Path, version: str, dtype: str) -> None:
    arrays: dict[str, NDArray[np.generic]] = {
        "arg:res4b2_branch2b1_weight": np.arange(36).reshape(2, 2, 3, 3).astype(dtype),
        "aux:bn6a_branch2b2_moving_var": np.array([1.5, -2, 4]).astype(dtype),
        "bn7_mean": np.array([7]).astype(dtype),
    }
    state = read_params(write_params(tmp_path / "w.params", arrays, version))
    assert list(state) == ["b4_2.conv_branch2b1.weight", "b6.bn_branch2b2.running_var", "bn7.running_mean"]
    for tensor, array in zip(state.values(), arrays.values(), strict=True):
        assert tensor.dtype == torch.float32
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_published_file_as_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = published_shapes()
    arrays = {
        name: rng.random(shapes[ours], np.float32)
        for name, ours in mxnet_names().items()
        if ours.startswith(("conv1a", "b2"))
    }
    path = write_params(tmp_path / "ilsvrc.params", arrays)
    backbone = create_backbone("resnet38", block="b2_2", output_stride=8, weights=str(path))
    state = backbone.network.state_dict()
    for name, ours in mxnet_names().items():
        if name in arrays:
            np.testing.assert_array_equal(state[ours].numpy(), arrays[name])
    assert (backbone.weights.source, backbone.weights.licence) == ("path", "unknown")


def test_checkpoint_of_psa_as_weights(tmp_path: Path, network: Backbone) -> None:
    """Its classifier and AffinityNet heads are passed over; older files have no counts of batches."""
    kept = {
        key: value
        for key, value in network.network.state_dict().items()
        if key.startswith(("conv1a", "b2")) and "num_batches" not in key
    }
    heads = {f"{head}.weight": torch.zeros(1) for head in ("fc8", "f8_3", "f8_4", "f8_5", "f9")}
    torch.save(kept | heads, tmp_path / "res38_aff.pth")
    backbone = create_backbone("resnet38", block="b2_2", output_stride=8, weights=str(tmp_path / "res38_aff.pth"))
    assert all(torch.equal(backbone.network.state_dict()[key], value) for key, value in kept.items())


GOOD = {"bn7_gamma": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "it ends too early"),
        (lambda content: b"PK" + content[2:], "it does not begin as one"),
        (lambda content: content[:-3], "it ends too early"),
        (lambda content: content[:40], "it ends too early"),
        (
            lambda content: content[:24] + struct.pack("<I", 0xF993FACB) + content[28:],
            "an array of 4187224779 dimensions",
        ),
        (lambda content: content[:28] + struct.pack("<i", 1) + content[32:], "a sparse array"),
        (lambda content: content[:36] + struct.pack("<q", 2**50) + content[44:], "it ends too early"),
        (lambda content: content[:36] + struct.pack("<q", -1) + content[44:], "it ends too early"),
        (lambda content: content[:52] + struct.pack("<i", 12) + content[56:], "an array of unknown type 12"),
        (lambda content: content[:68] + struct.pack("<Q", 2) + content[76:], "1 arrays and 2 names"),
        (lambda content: content[:-1] + b"\xff", "'utf-8' codec .*"),
    ],
)
def test_damaged_file(tmp_path: Path, damage: object, reason: str) -> None:
    path = write_params(tmp_path / "broken.params", dict(GOOD))
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(WeightsError, match=rf"broken\.params: cannot be read as a file of MXNet arrays \({reason}\)$"):
        read_params(path)


@pytest.mark.parametrize(
    "name", ["conv0_weight", "res2a_branch3_weight", "bn2b1_branch2a_sigma", "bn7_sigma", "res22a_branch2a_weight", "x"]
)
def test_file_of_another_network(tmp_path: Path, name: str) -> None:
    path = write_params(tmp_path / "other.params", {**GOOD, name: np.ones(1, np.float32)})
    with pytest.raises(WeightsError, match=rf"other\.params: '{name}' is not a tensor of a ResNet-38$"):
        read_params(path)
