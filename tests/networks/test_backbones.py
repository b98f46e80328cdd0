"""Backbones by name: strides, blocks, weights that fit or say why not, and the list of what there is."""

import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from tag2mask.errors import SettingsError, WeightsError
from tag2mask.networks.backbones import OUTPUT_STRIDES, BackboneInfo, create_backbone, list_backbones

LITE0 = "tf_efficientnet_lite0"
DINO = "vit_small_patch14_dinov2"


def images(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
@pytest.mark.parametrize("name", [LITE0, "resnet18", "resnet18d", "mobilenetv2_100", "convnext_atto", "regnetx_002"])
def test_feature_sizes(name: str, output_stride: int) -> None:
    backbone = create_backbone(name, output_stride=output_stride, weights="none").eval()
    assert (backbone.stride, backbone.output_stride) == (output_stride, output_stride)
    with torch.no_grad():
        features = backbone(images(75, 98))
    assert features.shape == (1, backbone.channels, -(-75 // output_stride), -(-98 // output_stride))


def test_same_weights_at_every_stride() -> None:
    """Train at 32, read at 16: the finer features differ in resolution alone, so their pooled values stay close."""
    coarse, fine = (create_backbone(LITE0, output_stride=stride).eval() for stride in (32, 16))
    fine.load_state_dict(coarse.state_dict())
    assert coarse.weights == fine.weights
    smooth = torch.nn.functional.interpolate(images(7, 7), size=(224, 224), mode="bicubic")
    with torch.no_grad():
        low, high = coarse(smooth), fine(smooth)
    assert (low.shape[2:], high.shape[2:]) == ((7, 7), (14, 14))
    similarity = torch.nn.functional.cosine_similarity(low.mean((2, 3)), high.mean((2, 3)))
    assert float(similarity) > 0.9


def test_features_equal_timm() -> None:
    """Cutting the network changes nothing: head features and those of an inner block are timm's own."""
    torch.manual_seed(0)
    reference = timm.create_model("resnet18", output_stride=16, zero_init_last=False).eval()
    batch = images(64, 80, count=2)
    with torch.no_grad():
        expected = reference.forward_features(batch)
        inner = reference.forward_intermediates(batch, intermediates_only=True)[3]
    torch.manual_seed(0)
    backbone = create_backbone("resnet18", weights="none").eval()
    state = {f"network.{key}": value for key, value in reference.state_dict().items() if not key.startswith("fc.")}
    backbone.load_state_dict(state)
    cut = create_backbone("resnet18", block="layer3", weights="none").eval()
    cut.load_state_dict({key: value for key, value in state.items() if not key.startswith("network.layer4")})
    with torch.no_grad():
        # Up to the rounding of batch norms that are worked into convolutions.
        torch.testing.assert_close(backbone(batch), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
        torch.testing.assert_close(cut(batch), inner, atol=1e-5 * float(inner.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("name", "last", "channels"),
    [
        (LITE0, "conv_head", 1280),
        ("resnet18", "layer4.1", 512),
        ("resnet50", "layer4.2", 2048),
        ("vgg11", "pool5", 512),
    ],
)
def test_default_block_is_the_last(name: str, last: str, channels: int) -> None:
    backbone = create_backbone(name, weights="none")
    assert (backbone.block, backbone.blocks[-1], backbone.channels) == (last, last, channels)


def test_alias_is_the_last_block_of_a_layer() -> None:
    cut = create_backbone("resnet18", block="layer2", weights="none")
    assert cut.block == "layer2.1"
    assert cut.channels_of("layer1") == cut.channels_of("layer1.1") == 64
    assert create_backbone("resnet50", block="layer4.0", weights="none").blocks[-2:] == ("layer3.5", "layer4.0")


@pytest.mark.parametrize(("name", "block"), [(LITE0, "blocks.2"), ("convnext_atto", "stages.1"), (DINO, "blocks.1")])
def test_later_blocks_are_dropped(name: str, block: str) -> None:
    stride = 14 if name == DINO else 16
    whole = create_backbone(name, output_stride=stride, weights="none")
    cut = create_backbone(name, output_stride=stride, block=block, weights="none")
    assert cut.block == cut.blocks[-1] == block
    assert set(cut.state_dict()) < set(whole.state_dict())
    assert len(cut.state_dict()) < 0.7 * len(whole.state_dict())


def test_normalisation_is_the_weights_own() -> None:
    backbone = create_backbone(LITE0, block="stem")
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.5,) * 3)
    torch.testing.assert_close(backbone.normalise(torch.full((2, 3, 4, 4), 0.75)), torch.full((2, 3, 4, 4), 0.5))
    assert create_backbone("resnet18", weights="none").mean == pytest.approx((0.485, 0.456, 0.406))


def test_random_weights_follow_the_seed() -> None:
    torch.manual_seed(1)
    first = create_backbone("resnet18", weights="none").state_dict()
    torch.manual_seed(1)
    second = create_backbone("resnet18", weights="none")
    assert all(torch.equal(first[key], value) for key, value in second.state_dict().items())
    assert second.weights.source == "none"


def test_weights_round_trip_through_a_path(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = timm.create_model("resnet18")
    path = tmp_path / "resnet.safetensors"
    safetensors.torch.save_file(original.state_dict(), path)
    backbone = create_backbone("resnet18", weights=str(path), block="layer3")
    assert (backbone.weights.source, backbone.weights.path) == ("path", path)
    expected = original.state_dict()
    for key, value in backbone.network.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=0, rtol=0)
    counted = {key: value for key, value in expected.items() if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": counted}, tmp_path / "old.pth")
    create_backbone("resnet18", weights=str(tmp_path / "old.pth"))


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("resnet34", r"unexpected: layer1\.2\.bn1\.bias, .* \.\.\.$"),
        ("resnet26", r"unexpected: .*; other shape: layer1\.0\.conv1\.weight is \(64, 64, 1, 1\) instead of "),
        ("mobilenetv2_100", r"missing: conv1\.weight, bn1\.weight, bn1\.bias \.\.\.$"),
    ],
)
def test_weights_of_another_network(tmp_path: Path, given: str, fault: str) -> None:
    path = tmp_path / "other.safetensors"
    state = timm.create_model(given).state_dict()
    if given == "mobilenetv2_100":
        state = {key: value for key, value in state.items() if key.startswith("blocks.")}
    safetensors.torch.save_file(state, path)
    with pytest.raises(WeightsError, match=rf"other\.safetensors: not the weights of backbone 'resnet18'; {fault}"):
        create_backbone("resnet18", weights=str(path))


def test_wrong_shape_names_both(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    safetensors.torch.save_file(state, tmp_path / "grey.safetensors")
    with pytest.raises(WeightsError, match=r"conv1\.weight is \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)"):
        create_backbone("resnet18", weights=str(tmp_path / "grey.safetensors"))


def test_package_weights_arrive() -> None:
    backbone = create_backbone(LITE0)
    assert backbone.weights.source == "package"
    statistics = dict(backbone.network.named_buffers())["bn1.running_var"]
    assert not torch.equal(statistics, torch.ones_like(statistics))


@pytest.mark.parametrize("name", ["resnet5", "no_such_thing", "resnet.50"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"unknown backbone '{name}'; choices: .*resnet50.*`tag2mask list-backbones`"
    ):
        create_backbone(name)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "deit_tiny_distilled_patch16_224", "test_vit"])
def test_unsupported_network_of_timm(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"backbone '{name}' of timm cannot .*`tag2mask list-backbones`"):
        create_backbone(name, weights="none")


def test_transformer_that_is_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *arguments, **options: torch.nn.Identity())
    with pytest.raises(SettingsError, match="'vit_tiny_patch16_224' is no plain vision transformer"):
        create_backbone("vit_tiny_patch16_224", weights="none")


def test_unknown_tag_stride_and_block() -> None:
    with pytest.raises(SettingsError, match=r"unknown weights tag 'resnet50\.x'; choices: .*resnet50\.tv_in1k"):
        create_backbone("resnet50.x")
    with pytest.raises(SettingsError, match=r"unknown weights tag 'resnet38\.x'; choices: resnet38$"):
        create_backbone("resnet38.x")
    with pytest.raises(SettingsError, match=r"'resnet18' cannot have output stride 4; choices: 8, 16, 32$"):
        create_backbone("resnet18", output_stride=4)
    with pytest.raises(SettingsError, match=r"cannot have output stride 16; choices: 14 \(its patch size\)"):
        create_backbone(DINO)
    with pytest.raises(
        SettingsError, match=r"block of backbone 'resnet18' 'layer5'; choices: stem, layer1\.0.*layer4$"
    ):
        create_backbone("resnet18", block="layer5", weights="none")


def test_list_is_quick_and_tested_names_come_first() -> None:
    start = time.monotonic()
    everything = list_backbones()
    assert time.monotonic() - start < 2
    tested = [info for info in everything if info.tested]
    assert everything[: len(tested)] == tested
    assert [info.name for info in tested[:2]] == [LITE0, DINO]
    assert {info.name for info in everything if info.offline} == {LITE0, DINO}
    assert len({info.name for info in everything}) == len(everything) > 300
    assert {info.family for info in everything} == {"EfficientNet", "ResNet", "ResNet38", "VGG", "ViT", "staged"}


def test_list_by_pattern() -> None:
    names = [info.name for info in list_backbones("resnet1*")]
    assert names[:2] == ["resnet101", "resnet18"]
    assert "resnet152" in names
    assert not list_backbones("no_such*")
    assert list_backbones("swin*") == []
    assert list_backbones(DINO) == [BackboneInfo(DINO, "ViT", (14,), True, True, list_backbones(DINO)[0].note)]
    assert list_backbones("vit_tiny_patch16_224")[0].output_strides == (16,)


@pytest.mark.parametrize("info", [info for info in list_backbones() if info.tested], ids=lambda info: info.name)
def test_tested_backbones_can_be_built(info: BackboneInfo) -> None:
    backbone = create_backbone(info.name, output_stride=info.output_strides[0], weights="none")
    assert backbone.stride == info.output_strides[0]
    assert backbone.cacheable == (info.family not in ("ViT", "staged"))
