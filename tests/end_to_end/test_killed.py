"""Killed in any stage and started again, a run ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.builders import TINY, file_bytes, write_shapes


def command(folder: Path, workspace: str) -> list[str]:
    return [
        *(sys.executable, "-m", "tag2mask.cli", "run", "cam", "--config", str(folder / "tiny.yaml"), "--threads", "1"),
        *("--data", str(folder / "data"), "--workspace", str(folder / workspace), "--pictures", "0"),
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    write_shapes(folder / "data", train=24)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    subprocess.run(command(folder, "whole"), check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("stage", "sign"), [("classifier", "checkpoint.pt"), ("cams", "items/*_05.npz"), ("segmenter", "checkpoint.pt")]
)
def test_artifacts_are_byte_identical(home: Path, stage: str, sign: str) -> None:
    workspace = f"killed-{stage}"
    with subprocess.Popen(command(home, workspace), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list((home / workspace / "stages").glob(f"{stage}-*/{sign}")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    (folder,) = (home / workspace / "stages").glob(f"{stage}-*")
    assert not (folder / "stage.json").exists()
    subprocess.run(command(home, workspace), check=True, capture_output=True)
    whole, again = file_bytes(home / "whole" / "stages"), file_bytes(home / workspace / "stages")
    assert set(again) == set(whole)
    for name, content in whole.items():
        assert again[name] == content, name
