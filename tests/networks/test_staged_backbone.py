from collections.abc import Callable

import pytest
import timm
import torch

from tag2mask.networks.backbones import Backbone
from tests.networks.conftest import awaken, images


@pytest.mark.parametrize("name", ["convnext_atto", "regnetx_002", "xception41p"])
def test_staged_features_are_timms(build: Callable[..., Backbone], name: str) -> None:
    torch.manual_seed(0)
    reference = awaken(timm.create_model(name, output_stride=16, num_classes=0)).eval()
    expected = reference.forward_intermediates(images(), intermediates_only=True)
    for index, block in enumerate(build(name).blocks):
        backbone = build(name, block=block).eval()
        kept = backbone.network.state_dict()
        backbone.network.load_state_dict({key: value for key, value in reference.state_dict().items() if key in kept})
        torch.testing.assert_close(backbone(images()), expected[index], atol=0, rtol=0)
        assert backbone.channels == expected[index].shape[1]
        assert backbone.stride == 64 // expected[index].shape[2]
