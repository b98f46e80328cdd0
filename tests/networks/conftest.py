"""Networks with random weights, for the tests of backbones."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from tag2mask.networks.backbones import Backbone, create_backbone

Network = TypeVar("Network", bound=nn.Module)


def awaken(module: Network) -> Network:
    """Draw what starts at zero or one, so that no residual branch is silent and no batch norm the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim <= 1:
                parameter.copy_(torch.empty_like(parameter).uniform_(0.5, 1.5))
        for key, value in module.named_buffers():
            if "running" in key:
                value.uniform_(0.5, 1.5)
    return module


@pytest.fixture
def build() -> Callable[..., Backbone]:
    def make(name: str, **options: object) -> Backbone:
        torch.manual_seed(0)
        return awaken(create_backbone(name, weights="none", **options))  # type: ignore[arg-type]

    return make


def images(height: int = 64, width: int = 80) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
