from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tag2mask.errors import WeightsError
from tag2mask.networks.tensor_file import module_tensors, read_tensor_header, reason, write_tensor_file

HEADER = {"version": 3, "b": [1, 2], "a": "x"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_tensor_file(tmp_path / "net.safetensors", nn.Linear(2, 3), "a-key", HEADER)
    return tmp_path / "net.safetensors"


def read(path: Path, key: str = "a-key", version: int = 3) -> Any:
    return read_tensor_header(path, key, version, "file of a kind", lambda header: header["b"])


def test_weights_and_header_come_back(path: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Linear(2, 3)
    assert read(path) == [1, 2]
    tensors = load_file(path)
    assert tensors.keys() == module.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in module.state_dict().items())
    write_tensor_file(tmp_path / "again", module, "a-key", dict(reversed(HEADER.items())))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_tensors_are_written_without_gradient_in_a_row() -> None:
    module = nn.Linear(2, 3)
    module.weight = nn.Parameter(torch.randn(2, 3).t())
    made = module_tensors(module)["weight"]
    assert made.is_contiguous()
    assert not made.requires_grad
    assert torch.equal(made, module.weight)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"key": "another-key"}, "a safetensors file, but no file of a kind written by tag2mask"),
        ({"version": 4}, "file of a kind of version 3; this tag2mask reads version 4"),
    ],
)
def test_a_file_of_something_else_or_of_another_version(path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read(path, **given)


def test_what_is_damaged_is_named(path: Path) -> None:
    for error, told in (
        (KeyError("depth"), "'depth' is missing"),
        (ValueError("no"), "no"),
        (TypeError(), "TypeError"),
    ):

        def check(header: dict[str, Any], error: Exception = error) -> None:
            raise error

        with pytest.raises(WeightsError, match=rf"net\.safetensors: the header of this file of a kind is .*\({told}\)"):
            read_tensor_header(path, "a-key", 3, "file of a kind", check)
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(WeightsError, match=r"net\.safetensors: not a whole file of a kind"):
        read(path)
    with pytest.raises(WeightsError, match="there is no such file of a kind"):
        read(path.with_name("none"))


def test_reasons_are_one_short_line() -> None:
    told = reason(RuntimeError("size mismatch for\n\t" + "weight " * 500))
    assert len(told) <= 300
    assert "\n" not in told
