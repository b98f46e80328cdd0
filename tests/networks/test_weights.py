"""Where weights come from: the order, what each source answers, and that every dead end is one clear sentence."""

import hashlib
import re
import time
import urllib.error
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from tag2mask.errors import WeightsError
from tag2mask.networks import weights
from tag2mask.networks.weights import PACKAGES, WeightsInfo, load_state, resolve_weights

LITE0 = "tf_efficientnet_lite0"
DINO = "vit_small_patch14_dinov2"


def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(weights.metadata, "files", missing)


@pytest.mark.parametrize("name", [LITE0, DINO])
def test_installed_package_comes_before_the_hub(name: str) -> None:
    info = resolve_weights(name)
    assert info.source == "package"
    assert info.name.startswith(PACKAGES[name].distribution)
    assert info.path is not None
    assert info.identity.endswith(hashlib.sha256(info.path.read_bytes()).hexdigest())
    assert str(info.path) not in info.identity
    assert "Apache-2.0" in info.licence


def test_path_comes_before_the_package(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    info = resolve_weights(LITE0, str(path))
    assert (info.source, info.name, info.path) == ("path", "mine.safetensors", path)
    assert info.identity == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_without_package_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    no_packages(monkeypatch)
    expected = WeightsInfo("hub", f"timm/{LITE0}.in1k", "Apache-2.0", f"hub:timm/{LITE0}.in1k")
    assert resolve_weights(LITE0) == expected


def test_without_the_reader_of_a_package_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda module: None)
    assert resolve_weights(DINO).source == "hub"
    assert resolve_weights(LITE0).source == "package"


def test_hub_and_package_can_be_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_weights(LITE0, "hub").source == "hub"
    no_packages(monkeypatch)
    with pytest.raises(WeightsError, match=r"no installed package carries .*: install tag2mask\[offline\] or give"):
        resolve_weights(LITE0, "package")
    with pytest.raises(WeightsError, match=r"'resnet18': give the path of a \.safetensors or \.pth file as weights$"):
        resolve_weights("resnet18", "package")


def test_tags_choose_weights_of_the_hub() -> None:
    assert resolve_weights("resnet50.tv_in1k").identity == "hub:timm/resnet50.tv_in1k"
    assert resolve_weights("resnet50.tv_in1k").licence == "BSD-3-Clause"
    assert resolve_weights("resnet50").identity != resolve_weights("resnet50.tv_in1k").identity
    assert resolve_weights(f"{LITE0}.in1k").source == "hub"


@pytest.mark.parametrize("name", ["resnet50.no_such_tag", "no_such_network"])
def test_hub_has_nothing(name: str) -> None:
    with pytest.raises(WeightsError, match=f"timm has no pretrained weights for '{name}'"):
        resolve_weights(name)


def test_address_with_a_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    config = timm.models.PretrainedCfg(url=("https://somewhere/file", "file.pth"))  # type: ignore[arg-type]
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config)
    info = resolve_weights("resnet18")
    assert (info.name, info.licence) == ("https://somewhere/file", "unknown")


def test_none_is_random() -> None:
    info = resolve_weights(LITE0, "none")
    assert (info.source, info.identity, info.path) == ("none", "none", None)
    with pytest.raises(ValueError, match="no state to load"):
        load_state(LITE0, info)


def test_resolving_is_cheap_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve_weights(LITE0)

    def unread(*arguments: object) -> None:
        raise AssertionError("the file was hashed again")

    monkeypatch.setattr(weights.hashlib, "file_digest", unread)
    assert resolve_weights(LITE0) == first


def test_changed_file_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"weight": torch.ones(2)}, path)
    before = resolve_weights(LITE0, str(path)).identity
    torch.save({"weight": torch.ones(3), "bias": torch.ones(3)}, path)
    assert resolve_weights(LITE0, str(path)).identity != before


STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2)}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("plain.pth", STATE),
        ("plain.pt", STATE),
        ("wrapped.pth", {"state_dict": STATE, "epoch": 3}),
        ("model.pth", {"model": STATE, "optimizer": {}}),
        ("parallel.pth", {"state_dict": {f"module.{key}": value for key, value in STATE.items()}}),
        ("plain.safetensors", STATE),
    ],
)
def test_files_of_all_kinds(tmp_path: Path, file: str, content: dict[str, Any]) -> None:
    path = tmp_path / file
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    state = load_state("resnet18", resolve_weights("resnet18", str(path)))
    assert set(state) == set(STATE)
    for key, value in STATE.items():
        torch.testing.assert_close(state[key], value, atol=0, rtol=0)


def test_original_lite_file_as_a_path(tmp_path: Path) -> None:
    original = resolve_weights(LITE0, "package")
    assert original.path is not None
    state = load_state(LITE0, resolve_weights(LITE0, str(original.path)))
    assert "conv_stem.weight" in state


class Harmful:
    """Anything that is not a tensor must not be unpickled."""


@pytest.mark.parametrize("file", ["a.pth", "a.safetensors"])
def test_damaged_file(tmp_path: Path, file: str) -> None:
    path = tmp_path / file
    path.write_bytes(b"neither")
    with pytest.raises(WeightsError, match=rf"{re.escape(file)}: cannot be read as a file of weights"):
        load_state(LITE0, resolve_weights(LITE0, str(path)))


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    torch.save({"model": Harmful()}, path)
    with pytest.raises(WeightsError, match=r"module\.pth: cannot be read"):
        load_state(LITE0, resolve_weights(LITE0, str(path)))


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(1)], {"state_dict": {}}])
def test_file_without_a_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "empty.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"empty\.pth: holds no state dict"):
        load_state(LITE0, resolve_weights(LITE0, str(path)))


def test_missing_file_and_other_suffix(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'nowhere\.pth' does not exist; weights is 'auto', 'package', 'hub'"):
        resolve_weights(LITE0, "nowhere.pth")
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(
        WeightsError, match=rf"suffix that cannot be read for '{LITE0}'; .*\.safetensors, \.pth, \.pt\)$"
    ):
        resolve_weights(LITE0, str(tmp_path / "w.npz"))


def test_suffixes_of_a_backbone_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.params"
    path.write_bytes(b"neither")
    assert resolve_weights("resnet38", str(path)).source == "path"
    with pytest.raises(WeightsError, match=r"w\.params: cannot be read as a file of MXNet arrays"):
        load_state("resnet38", resolve_weights("resnet38", str(path)))
    with pytest.raises(WeightsError, match=r"w\.params' has a suffix that cannot be read for 'resnet18'; .*\.pt\)$"):
        resolve_weights("resnet18", str(path))


@pytest.mark.parametrize("source", ["auto", "package", "hub"])
def test_weights_that_only_files_carry(source: str) -> None:
    with pytest.raises(
        WeightsError, match=r"^no package and no hub has weights for 'resnet38': .*cls1000_ep-0001\.params"
    ):
        resolve_weights("resnet38", source)
    assert resolve_weights("resnet38", "none").source == "none"


def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        (LITE0, r"install tag2mask\[offline\], give the path of a .safetensors or .pth file as weights or connect"),
        ("resnet18", "give the path of a .safetensors or .pth file as weights or connect to the internet"),
    ],
)
def test_offline_is_one_sentence_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, ways: str) -> None:
    offline(monkeypatch, tmp_path)
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    start = time.monotonic()
    with pytest.raises(WeightsError, match=ways) as caught:
        load_state(name, resolve_weights(name, "hub"))
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    assert before == huggingface_hub.constants.HF_HUB_OFFLINE


def test_earlier_download_serves_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offline(monkeypatch, tmp_path)
    folder = tmp_path / "models--timm--resnet18.a1_in1k"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    state = timm.create_model("resnet18").state_dict()
    safetensors.torch.save_file(state, snapshot / "model.safetensors")
    loaded = load_state("resnet18", resolve_weights("resnet18"))
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_download_is_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub gives arrives unchanged; the probe lets the client go online."""
    seen: list[tuple[str, bool, bool]] = []
    torch.manual_seed(0)
    model = timm.create_model("resnet18")

    def create(name: str, pretrained: bool) -> torch.nn.Module:
        seen.append((name, pretrained, huggingface_hub.constants.HF_HUB_OFFLINE))
        return model

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "_hub_answers", lambda: True)
    monkeypatch.setattr(timm, "create_model", create)
    state = load_state("resnet18", resolve_weights("resnet18"))
    assert seen == [("resnet18", True, False)]
    assert set(state) == set(model.state_dict())


def test_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        def close(self) -> None:
            pass

    asked: list[str] = []

    def answer(request: Any, timeout: float) -> Answer:
        asked.append(request.full_url)
        return Answer()

    def forbid(request: Any, timeout: float) -> None:
        raise urllib.error.HTTPError(request.full_url, 403, "forbidden", None, None)  # type: ignore[arg-type]

    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setattr(weights.urllib.request, "urlopen", answer)
    assert weights._hub_answers()
    assert asked == ["https://mirror.example"]
    monkeypatch.setattr(weights.urllib.request, "urlopen", forbid)
    assert weights._hub_answers()
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", "not an address")
    assert not weights._hub_answers()


def test_package_without_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.metadata, "files", lambda name: None)
    assert PACKAGES[LITE0].find() is None
