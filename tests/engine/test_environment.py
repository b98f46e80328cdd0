import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tag2mask.data.masks import MaskFile
from tag2mask.engine.environment import Environment, Runtime
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError, SettingsError
from tests.builders import shapes_dataset, shapes_environment

ALL = frozenset({"images", "tags", "masks"})


def test_samples_carry_only_what_is_declared(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path)
    assert all(s.tags and s.mask for s in env.samples("train", ALL))  # type: ignore[arg-type]
    assert all(s.tags and s.mask is None for s in env.samples("train", frozenset({"images", "tags"})))
    assert all(not s.tags and s.mask is None for s in env.samples("val", frozenset({"images"})))


def test_fingerprints_cover_what_is_read_and_nothing_else(tmp_path: Path) -> None:
    dataset = shapes_dataset(tmp_path / "data")

    def prints(reads: frozenset, dataset=dataset) -> str:  # type: ignore[no-untyped-def]
        return Environment(dataset, Workspace(tmp_path / "ws")).data_fingerprint("train", reads)

    tags_only, everything = frozenset({"images", "tags"}), ALL
    before = prints(tags_only), prints(everything)
    mask = dataset.train.samples[0].mask
    assert isinstance(mask, MaskFile)
    mask.path.write_bytes((tmp_path / "data/SegmentationClass/shape_01.png").read_bytes())
    assert prints(tags_only) == before[0]
    assert prints(everything) != before[1]
    renamed = dataclasses.replace(dataset, classes=("ball", "square"))
    assert prints(tags_only, renamed) != before[0]
    image = dataset.train.samples[0].image
    image.write_bytes(dataset.train.samples[3].image.read_bytes())
    assert prints(tags_only) != before[0]


def test_a_missing_split_is_an_error(tmp_path: Path) -> None:
    env = shapes_environment(tmp_path)
    env.dataset = dataclasses.replace(env.dataset, val=None)
    with pytest.raises(DataError, match="val"):
        env.split("val")


def test_runtime_is_resolved() -> None:
    runtime = Runtime().resolved()
    assert runtime.device in ("cpu", "cuda")
    assert runtime.threads >= 1
    assert runtime.workers >= 0
    assert runtime.torch_device.type == runtime.device


@pytest.mark.parametrize(("processors", "workers"), [(2, 1), (8, 4), (64, 8)])
def test_processes_load_only_for_a_gpu(monkeypatch: pytest.MonkeyPatch, processors: int, workers: int) -> None:
    monkeypatch.setattr("tag2mask.engine.environment.cpu_count", lambda: processors)
    assert Runtime(device="cpu").resolved().workers == 0
    assert Runtime(device="cuda").resolved(device_needed=False).workers == workers
    assert Runtime(device="cpu", workers=3).resolved().workers == 3


def test_a_device_that_is_not_there_is_an_error_where_it_is_needed() -> None:
    with pytest.raises(SettingsError, match="device: 'cuda:99' is not there"):
        Runtime(device="cuda:99").resolved()
    assert Runtime(device="cuda:99").resolved(device_needed=False).device == "cuda:99"


@pytest.mark.parametrize(("count", "end"), [(0, "0 GPUs"), (1, "1 GPU")])
def test_the_devices_that_are_there_are_counted(monkeypatch: pytest.MonkeyPatch, count: int, end: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    with pytest.raises(SettingsError, match=f"this machine has {end}$"):
        Runtime(device="cuda:1").resolved()
    with pytest.raises(SettingsError, match="device: 'tpu!' is unknown"):
        Runtime(device="tpu!").resolved(device_needed=False)


@pytest.mark.parametrize("by_threads", [True, False])
def test_what_can_change_bits_enters_fingerprints(tmp_path: Path, by_threads: bool) -> None:
    def digest(**runtime: Any) -> str:
        return shapes_environment(tmp_path, **{"threads": 1, **runtime}).runtime_fingerprint(by_threads=by_threads)

    assert (digest(threads=2) != digest()) is by_threads
    assert digest(precision="bf16-mixed") != digest()
    assert digest(seed=1) != digest()
    assert digest(workers=3) == digest()


@pytest.mark.parametrize("wrong", [{"precision": "8"}, {"threads": -1}, {"device": "tpu!"}, {"device": "meta"}])
def test_impossible_values_are_named(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Runtime(**wrong).resolved()
