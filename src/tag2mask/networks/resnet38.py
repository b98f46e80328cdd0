"""The wide ResNet-38 at output strides 8, 16 and 32, and the reader of its published ImageNet weights.

Wu, Shen and van den Hengel, "Wider or deeper: revisiting the ResNet model for visual recognition", Pattern Recognition
2019 (arXiv 1611.10080), model A1: the backbone of PSA (Ahn and Kwak, CVPR 2018) and SSDD (Shimoda and Yanai, ICCV
2019). timm has no such network. Parameter names are those of the PyTorch files that PSA publishes.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from tag2mask.errors import WeightsError

NAME = "resnet38"
"""Name of the network in settings."""

OUTPUT_STRIDES = (8, 16, 32)
"""Strides of the last features: PSA's, and those that the network was trained on ImageNet with (32)."""

PARAMS_SUFFIX = ".params"
"""Suffix of files that `read_params` reads."""

_STEM_WIDTH = 64


@dataclass(frozen=True)
class _Level:
    """Blocks of one shape: ``b4``, ``b4_1``, ...; the first of them is the one that halves the resolution."""

    blocks: int
    widths: tuple[int, ...]  # channels of the convolutions of the residual branch
    kernels: tuple[int, ...] = (3, 3)
    dropout: float = 0.0
    halves: bool = True


_LEVELS = {
    "b2": _Level(3, (128, 128)),
    "b3": _Level(3, (256, 256)),
    "b4": _Level(6, (512, 512)),
    "b5": _Level(3, (512, 1024)),
    "b6": _Level(1, (512, 1024, 2048), kernels=(1, 3, 1), dropout=0.3),
    "b7": _Level(1, (1024, 2048, 4096), kernels=(1, 3, 1), dropout=0.5, halves=False),
}
_BRANCH = ("2a", "2b1", "2b2")  # names of the convolutions of the residual branch, in order


class PreActivationBlock(nn.Module):
    """A residual block whose batch norms and ReLUs come before its convolutions.

    A block that changes the channels or the resolution projects its shortcut with a 1x1 convolution. There both
    branches start from the input after `bn_branch2a`, and the block is given just that: whoever runs the chain runs
    ``block.bn_branch2a`` first, so that the features between the two can be read (PSA does). Every other block is
    given the sum that the one before it returned, and runs its `bn_branch2a` itself.

    Attributes:
        projects: whether the block has the 1x1 convolution `conv_branch1` and is given activated features.

    Args:
        channels: of the input.
        widths: channels of the convolutions of the residual branch, two or three; the last are the output's.
        kernels: their sizes.
        stride: of the first convolution.
        first_dilation: of the first convolution.
        dilation: of the others.
        dropout: probability that a channel is dropped in front of each convolution but the first.

    Shapes: (N, channels, h, w) -> (N, widths[-1], ceil(h / stride), ceil(w / stride)).
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        *,
        kernels: Sequence[int],
        stride: int,
        first_dilation: int,
        dilation: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.projects = channels != widths[-1] or stride != 1
        self._branch = _BRANCH[: len(widths)]
        self.dropout = nn.Dropout2d(dropout)
        inputs, step, spacing = channels, stride, first_dilation
        for name, width, kernel in zip(self._branch, widths, kernels, strict=True):
            convolution = nn.Conv2d(
                inputs, width, kernel, step, padding=spacing * (kernel // 2), dilation=spacing, bias=False
            )
            self.add_module(f"bn_branch{name}", BatchNormAct2d(inputs))
            self.add_module(f"conv_branch{name}", convolution)
            inputs, step, spacing = width, 1, dilation
        if self.projects:
            self.conv_branch1 = nn.Conv2d(channels, widths[-1], 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        if self.projects:
            activated, shortcut = features, self.conv_branch1(features)
        else:
            activated, shortcut = self.get_submodule("bn_branch2a")(features), features
        residual = self.get_submodule("conv_branch2a")(activated)
        for name in self._branch[1:]:
            residual = self.dropout(self.get_submodule(f"bn_branch{name}")(residual))
            residual = self.get_submodule(f"conv_branch{name}")(residual)
        summed: Tensor = shortcut + residual
        return summed

    def initialise(self) -> None:
        """Draw the convolutions (He et al. 2015); a residual that is added to its own input starts at zero.

        Batch norm runs on fixed statistics, so nothing else would keep the scale of the features from growing with
        every block of a network without pretrained weights.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if not self.projects:
            nn.init.zeros_(self.get_parameter(f"conv_branch{self._branch[-1]}.weight"))


class ResNet38(nn.Module):
    """The convolutional part of the wide ResNet-38; a chain of modules, run by the backbone around it.

    The network for ImageNet halves the resolution in the first blocks of ``b2`` to ``b6``. At stride 8 (PSA's network)
    those of ``b5`` and ``b6`` keep it, and the convolutions behind them are dilated by 2 and 4 instead; at stride 16
    that of ``b6`` alone. The same weights compute the same features at every stride, on a finer or coarser grid.

    Its children in order are ``conv1a``, the blocks and ``bn7``, which is followed by a ReLU; see `PreActivationBlock`
    for what a block is given.

    Args:
        output_stride: one of `OUTPUT_STRIDES`.
    """

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, _STEM_WIDTH, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1a.weight, mode="fan_out", nonlinearity="relu")
        channels, stride, dilation = _STEM_WIDTH, 1, 1
        for name, level in _LEVELS.items():
            step, first_dilation = 1, dilation
            if level.halves and stride < output_stride:
                step, stride = 2, stride * 2
            elif level.halves:
                dilation *= 2
            for index in range(level.blocks):
                block = PreActivationBlock(
                    channels,
                    level.widths,
                    kernels=level.kernels,
                    stride=step,
                    first_dilation=first_dilation,
                    dilation=dilation,
                    dropout=level.dropout,
                )
                self.add_module(f"{name}_{index}" if index else name, block)
                channels, step, first_dilation = level.widths[-1], 1, dilation
        self.bn7 = BatchNormAct2d(channels)
        for block in self.blocks.values():
            block.initialise()

    @property
    def blocks(self) -> dict[str, PreActivationBlock]:
        """The residual blocks by name, in order."""
        return {name: child for name, child in self.named_children() if isinstance(child, PreActivationBlock)}


# MXNet's list of arrays, as its NDArray::Save wrote it over the years
_LIST_MAGIC = 0x112
_V1_MAGIC = 0xF993FAC8  # dimensions of 64 bits; before it the first word was the number of dimensions
_V2_MAGIC = 0xF993FAC9  # and a storage type
_V3_MAGIC = 0xF993FACA  # and shapes as numpy has them
_DENSE = 0
_MAX_DIMENSIONS = 32
_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8"}

_BLOCK_NAME = re.compile(r"(res|bn)(\d)(?:a|b(\d))_branch(1|2a|2b\d)")
_FIELDS = {
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}
_CLASSIFIER = "linear"


def read_params(path: Path) -> dict[str, Tensor]:
    """Read the published ImageNet weights, ``ilsvrc-cls_rna-a1_cls1000_ep-0001.params``, a file of MXNet's.

    Args:
        path: the file.

    Returns:
        names of `ResNet38` -> float32 tensors on the CPU; the classifier's are left out.

    Raises:
        WeightsError: the file cannot be read, is damaged, or has a tensor that is none of this network's.
    """
    try:
        return to_torch_names(_read_arrays(path))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as a file of MXNet arrays ({error})") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def to_torch_names(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Rename arrays of the published MXNet network for `ResNet38`.

    Block ``res4a`` is ``b4`` and ``res4b2`` is ``b4_2``, the batch norms of ``bn4b2`` are in it.

    Args:
        arrays: under MXNet's names, such as ``res2b1_branch2a_weight`` or ``arg:res2b1_branch2a_weight``.

    Returns:
        float32 tensors in the same order; the classifier's are left out.

    Raises:
        WeightsError: a name does not belong to such a network.
    """
    renamed = {}
    for key, array in arrays.items():
        place, _, field = key.rpartition(":")[2].partition("_")
        if place.startswith(_CLASSIFIER):
            continue
        if place not in ("conv1a", "bn7"):
            branch, _, field = field.partition("_")
            match = _BLOCK_NAME.fullmatch(f"{place}_{branch}")
            if match is None:
                raise WeightsError(f"'{key}' is not a tensor of a ResNet-38")
            kind, level, index, branch = match.groups()
            block = f"b{level}_{index}" if index else f"b{level}"
            place = f"{block}.{'conv' if kind == 'res' else 'bn'}_branch{branch}"
        if field not in _FIELDS:
            raise WeightsError(f"'{key}' is not a tensor of a ResNet-38")
        renamed[f"{place}.{_FIELDS[field]}"] = torch.from_numpy(array).to(torch.float32)
    return renamed


def _read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Named arrays of a file that mxnet.nd.save wrote; ValueError says what is wrong with it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if _number(file, "<u8", size) != _LIST_MAGIC:
            raise ValueError("it does not begin as one")
        _number(file, "<u8", size)  # reserved
        arrays = [_read_array(file, size) for _ in range(_number(file, "<u8", size))]
        count = _number(file, "<u8", size)
        if count != len(arrays):
            raise ValueError(f"{len(arrays)} arrays and {count} names")
        names = [_numbers(file, "|u1", _number(file, "<u8", size), size).tobytes().decode() for _ in arrays]
    return dict(zip(names, arrays, strict=True))


def _read_array(file: BinaryIO, size: int) -> NDArray[np.generic]:
    """One array in any of the format's versions."""
    magic = _number(file, "<u4", size)
    if magic in (_V2_MAGIC, _V3_MAGIC) and _number(file, "<i4", size) != _DENSE:
        raise ValueError("a sparse array")
    versioned = magic in (_V1_MAGIC, _V2_MAGIC, _V3_MAGIC)
    dimensions = _number(file, "<i4", size) if versioned else magic
    if not 0 < dimensions <= _MAX_DIMENSIONS:
        raise ValueError(f"an array of {dimensions} dimensions")
    shape = [int(length) for length in _numbers(file, "<i8" if versioned else "<u4", dimensions, size)]
    _numbers(file, "<i4", 2, size)  # the device it was saved from
    kind = _number(file, "<i4", size)
    if kind not in _TYPES:
        raise ValueError(f"an array of unknown type {kind}")
    return _numbers(file, _TYPES[kind], math.prod(shape), size).reshape(shape)


def _number(file: BinaryIO, kind: str, size: int) -> int:
    return int(_numbers(file, kind, 1, size)[0])


def _numbers(file: BinaryIO, kind: str, count: int, size: int) -> NDArray[np.generic]:
    """The next numbers of a file, which is known to have this size."""
    # a damaged file may ask for more memory than there is
    if not 0 <= count * np.dtype(kind).itemsize <= size - file.tell():
        raise ValueError("it ends too early")
    return np.fromfile(file, kind, count)
