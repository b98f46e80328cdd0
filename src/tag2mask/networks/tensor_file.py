"""Safetensors files with a header of ours: one JSON string, under a key that says what the file is."""

import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tag2mask.errors import WeightsError

T = TypeVar("T")


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers as they are written: on the CPU, contiguous."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def write_tensor_file(path: Path, module: nn.Module, key: str, header: Mapping[str, Any]) -> None:
    """Writes a module and a header; the same ones give the same bytes.

    Args:
        path: the file to write.
        module: whose weights.
        key: says what the file is.
        header: plain JSON values, with "version" among them.
    """
    # One JSON string: safetensors writes several metadata keys in an arbitrary order. And Python's own write:
    # safetensors' tells of a full disk by an error of its own that names no file.
    path.write_bytes(save(module_tensors(module), metadata={key: json.dumps(header, sort_keys=True)}))


def read_tensor_header(path: Path, key: str, version: int, what: str, check: Callable[[dict[str, Any]], T]) -> T:
    """The header that `write_tensor_file` was given, checked.

    Args:
        path: the file.
        key: what the file must be.
        version: the one that can be read.
        what: the same in words, "model file" for one.
        check: turns the header into what is returned; raises KeyError, TypeError or ValueError where it is damaged.

    Raises:
        WeightsError: the file is missing, cut short, of something else, of another version, or its header is damaged.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such {what}")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(key)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a whole {what} ({reason(error)})") from error
    if text is None:
        raise WeightsError(f"{path}: a safetensors file, but no {what} written by tag2mask")
    try:
        header: dict[str, Any] = json.loads(text)
        found = header["version"]
        if found == version:
            return check(header)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: the header of this {what} is damaged ({reason(error)})") from error
    raise WeightsError(f"{path}: {what} of version {found}; this tag2mask reads version {version}")


def reason(error: Exception) -> str:
    """Reason of an error, in one short line."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    # torch names every tensor that does not fit; a few tell enough.
    return textwrap.shorten(str(error) or type(error).__name__, 300)
