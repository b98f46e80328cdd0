"""Backbones by timm's name: built at a chosen output stride, cut at a chosen block, with pretrained weights.

A ResNet's blocks are ``stem``, ``layer1.0`` ... ``layer4.2`` (``layer4`` is its last block), an EfficientNet's are
``stem``, ``blocks.0`` ... ``blocks.6`` and ``conv_head``, VGG's are ``conv1`` ... ``conv5`` and ``pool5``, a vision
transformer's are ``patch_embed``, ``blocks.0`` ... ``blocks.11`` and ``norm``; others have timm's feature stages.

The wide ResNet-38's are ``stem``, ``b2``, ``b2_1``, ``b2_2``, ``b3.act``, ``b3`` ... ``b7.act``, ``b7`` and ``bn7``.
The features of ``b2_2`` are the sum that the residual block returns, those of ``b3.act`` the same sum after the batch
norm and ReLU that both branches of ``b3`` start with; ``stem`` ends with those of ``b2``, and ``bn7`` is those after
``b7``. PSA's "conv4", "conv5" and "conv6" are ``b5.act``, ``b6.act`` and ``bn7``.
"""

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, is_model_in_modules
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tag2mask.errors import SettingsError, WeightsError, unknown_choice
from tag2mask.networks import resnet38, vgg
from tag2mask.networks.feature_blocks import Backbone, BackboneIdentity, Block, ChainBackbone, unknown_block
from tag2mask.networks.staged_backbone import StagedBackbone
from tag2mask.networks.vit_backbone import VitBackbone
from tag2mask.networks.weights import PACKAGES, WeightsInfo, load_state, resolve_weights

__all__ = ["Backbone", "BackboneInfo", "create_backbone", "list_backbones"]

OUTPUT_STRIDES = (8, 16, 32)
"""Strides that convolutional backbones can be built at; a vision transformer has its patch size alone."""

# modules of timm, by family; every model in the staged ones takes an output stride and gives its stages
_FAMILIES: dict[str, tuple[str, ...]] = {
    "EfficientNet": ("efficientnet",),
    "ResNet": ("resnet", "res2net", "resnest", "sknet"),
    "ViT": ("vision_transformer", "deit"),
    "staged": (
        "byobnet",
        "convnext",
        "cspnet",
        "cspnext",
        "inception_next",
        "nfnet",
        "regnet",
        "resnetv2",
        "rexnet",
        "xception_aligned",
    ),
}
_PATCH = re.compile(r"_patch(\d+)")
_DISTILLED = "distilled"  # such transformers embed positions in a way of their own
_BATCH_COUNT = "num_batches_tracked"
_SHOWN_KEYS = 3  # offending tensors named in an error

_TESTED = {
    "tf_efficientnet_lite0": "small and fast, real weights offline; the default of the small presets",
    "vit_small_patch14_dinov2": "self-supervised features for superpixels and saliency; no classifier",
    "vgg16": "the VGG of DSRG, DCP and masking",
    "resnet50": "the classifier of IRN and of the superpixel method",
    "resnet101": "the ResNet of DSRG, DCP and masking",
    "resnet38": "the wide ResNet-38 of PSA and SSDD; weights from a file alone",
    "resnet18": "small ResNet",
    "mobilenetv2_100": "small and fast",
    "convnext_tiny": "modern convolutional network",
}


@dataclass(frozen=True)
class BackboneInfo:
    """A backbone that can be built.

    Attributes:
        name: timm's name, or ``resnet38``.
        family: ``EfficientNet``, ``ResNet``, ``ResNet38``, ``VGG``, ``ViT`` or ``staged``. The features of all but the
            last two can be cached at a block.
        output_strides: strides it can be built at.
        offline: whether a package of the extra ``[offline]`` carries weights for it.
        tested: whether this package's tests and presets use it.
        note: what it is good for, in a few words.
    """

    name: str
    family: str
    output_strides: tuple[int, ...]
    offline: bool
    tested: bool
    note: str


def list_backbones(pattern: str = "*") -> list[BackboneInfo]:
    """The backbones that `create_backbone` can build, without building or downloading any.

    Args:
        pattern: shell-style pattern of names, such as ``resnet*``.

    Returns:
        the tested ones first, then all others by name.
    """
    names = {*vgg.NAMES, resnet38.NAME}
    for modules in _FAMILIES.values():
        for module in modules:
            names.update(timm.list_models(module=module))
    chosen = fnmatch.filter([*_TESTED, *sorted(names - set(_TESTED))], pattern)
    return [_describe(name, family) for name in chosen if (family := _family_of(name)) is not None]


def check_backbone(name: str, output_stride: int) -> str:
    """Check a name and a stride as `create_backbone` does, without building anything.

    Returns:
        the family the backbone belongs to.

    Raises:
        SettingsError: there is no such backbone, or it cannot have this stride; the message names those there are.
    """
    architecture = name.partition(".")[0]
    family = _supported_family(name, architecture)
    _check_stride(name, _output_strides(architecture, family), output_stride)
    return family


def create_backbone(
    name: str,
    *,
    output_stride: int = 16,
    block: str | None = None,
    weights: str = "auto",
    train_norm_affine: bool = False,
) -> Backbone:
    """Build a backbone with its weights.

    Args:
        name: timm's name, possibly with the tag of its weights (``resnet50.tv_in1k``).
        output_stride: pixels of the image per cell of the deepest features; 8, 16 or 32, of a vision transformer its
            patch size. The same weights serve at every stride: strides that are left out become dilations.
        block: name of the block whose features are read (see this module); later blocks are dropped.
            None is the last: ``conv_head``, ``layer4``, ``bn7``, ``pool5``, ``norm`` or the last stage.
        weights: as in `tag2mask.networks.weights.resolve_weights`; ``"none"`` draws them from torch's random state.
        train_norm_affine: let scale and shift of batch norm train in blocks that are not frozen.

    Returns:
        the backbone in training mode, with nothing frozen but batch norm.

    Raises:
        SettingsError: there is no such backbone or block, or it cannot have this stride; the message names those there
            are.
        WeightsError: the weights cannot be had or do not fit.
    """
    architecture = name.partition(".")[0]
    family = check_backbone(name, output_stride)
    network, blocks, aliases = build_network(architecture, family, output_stride)
    kept = blocks[: count_kept(name, [item.name for item in blocks], aliases, block)]
    info = resolve_weights(name, weights)
    whole = set(network.state_dict())
    if family == "staged":
        network.prune_intermediate_layers([len(kept) - 1], prune_norm=True, prune_head=True)
    else:
        _keep_only(network, {part for item in kept for part in item.parts})
    if info.source != "none":
        _load(name, network, whole, load_state(name, info), info)
    identity = BackboneIdentity(name, output_stride, *normalisation(name), info)
    return backbone_class(family)(network, kept, identity, aliases=aliases, train_norm_affine=train_norm_affine)


def backbone_class(family: str) -> type[Backbone]:
    """The class of the backbones of a family."""
    return {"ViT": VitBackbone, "staged": StagedBackbone}.get(family, ChainBackbone)


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that timm records with the weights of this name."""
    config = timm.get_pretrained_cfg(name) or PretrainedCfg()
    return tuple(config.mean), tuple(config.std)


def _family_of(architecture: str) -> str | None:
    """Family of a name without tag; None where no backbone can be made of it."""
    if architecture in vgg.NAMES:
        return "VGG"
    if architecture == resnet38.NAME:
        return "ResNet38"
    for family, modules in _FAMILIES.items():
        if is_model_in_modules(architecture, modules):
            plain = family != "ViT" or (_PATCH.search(architecture) and _DISTILLED not in architecture)
            return family if plain else None
    return None


def _output_strides(architecture: str, family: str) -> tuple[int, ...]:
    patch = _PATCH.search(architecture) if family == "ViT" else None
    return (int(patch.group(1)),) if patch else OUTPUT_STRIDES


def _describe(name: str, family: str) -> BackboneInfo:
    return BackboneInfo(
        name=name,
        family=family,
        output_strides=_output_strides(name, family),
        offline=name in PACKAGES,
        tested=name in _TESTED,
        note=_TESTED.get(name, ""),
    )


def _supported_family(name: str, architecture: str) -> str:
    family = _family_of(architecture)
    if family is None:
        near = difflib.get_close_matches(architecture, [info.name for info in list_backbones()])
        message = unknown_choice("backbone", name, near or _TESTED)
        if timm.is_model(architecture):
            message = f"backbone '{name}' of timm cannot give features at a chosen output stride"
        raise SettingsError(f"{message}; `tag2mask list-backbones` shows all that can be used")
    if name != architecture and name not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        raise SettingsError(unknown_choice("weights tag", name, tagged or [architecture]))
    return family


def _check_stride(name: str, choices: Sequence[int], output_stride: int) -> None:
    if output_stride not in choices:
        patch = " (its patch size)" if len(choices) == 1 else ""
        raise SettingsError(
            f"backbone '{name}' cannot have output stride {output_stride}; "
            f"choices: {', '.join(str(stride) for stride in choices)}{patch}"
        )


def build_network(architecture: str, family: str, output_stride: int) -> tuple[Any, list[Block], dict[str, str]]:
    """The whole network with random weights, all its blocks, and other names of blocks.

    The network is a model of timm or one of ours; what is asked of it goes beyond nn.Module's annotations.
    """
    if family == "VGG":
        return _build_vgg(architecture, output_stride)
    if family == "ResNet38":
        return _build_resnet38(output_stride)
    if family == "ViT":
        return _build_vit(architecture)
    network: Any = timm.create_model(architecture, output_stride=output_stride, num_classes=0)
    if family == "EfficientNet":
        stages = [f"blocks.{index}" for index in range(len(network.blocks))]
        head = Block("conv_head", ("conv_head", "bn2"))
        return network, [Block("stem", ("conv_stem", "bn1")), *(Block(stage, (stage,)) for stage in stages), head], {}
    if family == "ResNet":
        blocks = [Block("stem", ("conv1", "bn1", "act1", "maxpool"))]
        aliases = {}
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            blocks += [
                Block(f"{layer}.{index}", (f"{layer}.{index}",)) for index in range(len(getattr(network, layer)))
            ]
            aliases[layer] = blocks[-1].name
        return network, blocks, aliases
    stages = [stage["module"] for stage in network.feature_info]
    return network, [Block(stage, (stage,)) for stage in stages], {}


def _build_vgg(architecture: str, output_stride: int) -> tuple[nn.Module, list[Block], dict[str, str]]:
    network = vgg.VGG(architecture, output_stride)
    blocks, start = [], 0
    for number, end in enumerate(network.stage_ends, start=1):
        blocks.append(Block(f"conv{number}", tuple(f"features.{index}" for index in range(start, end))))
        start = end
    blocks.append(Block(f"pool{len(network.stage_ends)}", (f"features.{start}",)))
    return network, blocks, {}


def _build_resnet38(output_stride: int) -> tuple[nn.Module, list[Block], dict[str, str]]:
    network = resnet38.ResNet38(output_stride)
    (first, _), *others = network.blocks.items()
    # a batch norm worked into conv1a would change what is read between the two
    blocks = [Block("stem", ("conv1a", f"{first}.bn_branch2a")), Block(first, (first,))]
    for name, block in others:
        if block.projects:
            blocks.append(Block(f"{name}.act", (f"{name}.bn_branch2a",)))
        blocks.append(Block(name, (name,)))
    return network, [*blocks, Block("bn7", ("bn7",))], {}


def _build_vit(architecture: str) -> tuple[nn.Module, list[Block], dict[str, str]]:
    network: Any = timm.create_model(architecture, num_classes=0)
    if type(network) is not VisionTransformer:
        raise SettingsError(
            f"backbone '{architecture}' is no plain vision transformer; `tag2mask list-backbones` shows all"
        )
    tokens = [key for key in ("cls_token", "reg_token", "pos_embed") if getattr(network, key) is not None]
    blocks = [Block("patch_embed", ("patch_embed", *tokens, "norm_pre"))]
    blocks += [Block(f"blocks.{index}", (f"blocks.{index}",)) for index in range(len(network.blocks))]
    return network, [*blocks, Block("norm", ("norm",))], {}


def count_kept(name: str, blocks: Sequence[str], aliases: Mapping[str, str], block: str | None) -> int:
    """Number of a network's blocks up to and including the one to read; None reads the last.

    Raises:
        SettingsError: there is no such block; the message has the backbone's name.
    """
    if block is None:
        return len(blocks)
    target = aliases.get(block, block)
    if target not in blocks:
        raise unknown_block(name, block, [*blocks, *aliases])
    return blocks.index(target) + 1


def _keep_only(module: nn.Module, parts: set[str], prefix: str = "") -> None:
    """Delete the modules that belong to none of the parts, so that they take neither memory nor optimiser state."""
    for child_name, child in list(module.named_children()):
        path = prefix + child_name
        if path in parts:
            continue
        if any(part.startswith(f"{path}.") for part in parts):
            _keep_only(child, parts, f"{path}.")
        else:
            delattr(module, child_name)


def _load(name: str, network: nn.Module, whole: set[str], state: Mapping[str, Tensor], info: WeightsInfo) -> None:
    """Load the tensors of the kept blocks; those of dropped blocks and of classifiers are passed over.

    Args:
        name: of the backbone, for errors.
        network: with the dropped blocks gone.
        whole: names of all tensors before they went.
        state: timm's names -> tensors.
        info: where they came from.
    """
    wanted = network.state_dict()
    # older files do not count batches; with running statistics fixed nothing reads the count
    missing = [key for key in wanted if key not in state and not key.endswith(_BATCH_COUNT)]
    # a deeper network of the same family would otherwise load as far as it fits, silently
    roots = {key.partition(".")[0] for key in wanted}
    surplus = [
        key for key in state if key not in whole and key.partition(".")[0] in roots and not key.endswith(_BATCH_COUNT)
    ]
    fitting = {key: state[key] for key in wanted if key in state}
    shapes = [
        f"{key} is {tuple(value.shape)} instead of {tuple(wanted[key].shape)}"
        for key, value in fitting.items()
        if value.shape != wanted[key].shape
    ]
    faults = [
        f"{what}: {', '.join(keys[:_SHOWN_KEYS])}{' ...' if len(keys) > _SHOWN_KEYS else ''}"
        for what, keys in (("missing", missing), ("unexpected", surplus), ("other shape", shapes))
        if keys
    ]
    if faults:
        source: str | Path = info.path or info.name
        raise WeightsError(f"{source}: not the weights of backbone '{name}'; {'; '.join(faults)}")
    network.load_state_dict(fitting, strict=False)
