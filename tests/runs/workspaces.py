"""Workspaces as runs leave them, made up."""

import json
from pathlib import Path
from typing import Any

from tag2mask.runs.record import RUN_FILE


def stage(root: Path, name: str, number: int, *, size: int = 1000, complete: bool = True) -> str:
    folder = root / "stages" / f"{name}-{number:016x}"
    (folder / "items").mkdir(parents=True)
    (folder / "items" / "a.png").write_bytes(bytes(size))
    if complete:
        (folder / "stage.json").write_text("{}")
    return folder.name


def run(root: Path, name: str, stages: list[str], **more: Any) -> Path:
    folder = root / "runs" / name
    (folder / "masks").mkdir(parents=True)
    (folder / "masks" / "a.png").write_bytes(bytes(500))
    record = {
        "state": "finished",
        "method": "cam",
        "data": "/photos",
        "settings": {},
        "run": {},
        "runtime": {},
        "stages": [{"name": "x", "split": "train", "folder": stage} for stage in stages],
        **more,
    }
    (folder / RUN_FILE).write_text(json.dumps(record))
    return folder


VAL = {"val": {"mean_iou": 0.3244}, "classifier": {"mean_average_precision": 0.9}}
TAGS = {"classifier": {"mean_average_precision": 0.84}}


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}
