"""Folders of photographs with a table of tags, made up."""

from pathlib import Path

from PIL import Image

from tag2mask.data.samples import Dataset


def folder(root: Path, table: str | bytes, *images: str, name: str = "tags.csv", classes: str | None = None) -> Path:
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(root / image)
    (root / name).write_bytes(table.encode() if isinstance(table, str) else table)
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def tags(data: Dataset) -> dict[str, tuple[int, ...]]:
    return {sample.id: sample.tags for split in data.splits for sample in split}
