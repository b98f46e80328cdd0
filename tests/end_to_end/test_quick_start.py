"""README's way from photographs to masks, followed word for word on photographs of somebody's own."""

import contextlib
import csv
import io
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

import tag2mask
from tag2mask.cli import main
from tag2mask.data.classes import BACKGROUND
from tag2mask.data.datasets import open_dataset
from tag2mask.data.masks import read_mask, write_mask
from tag2mask.data.samples import Dataset
from tests.builders import file_bytes
from tests.conftest import ROOT

CLASSES = ("Tasse", "red car")
TURNED = 6
"""EXIF's orientation of a picture whose rows run down the right-hand side."""

AS_WRITTEN = pytest.mark.parametrize("followed", [pytest.param("as written", marks=pytest.mark.slow)], indirect=True)
"""For what the quick settings are too quick for."""

QUICK = (
    "--classifier.training.epochs 1 --classifier.views.crop 64 --classifier.views.long_side '[64, 80]' "
    "--cams.inference.long_side 64 --cams.inference.scales '[1.0]' --segmenter.training.epochs 1 "
    "--segmenter.views.crop 64 --segmenter.head.width 16 --prediction.inference.long_side 64 --threads 1"
)
"""Settings that come to nothing, in seconds; on one thread, because several wait for each other on a busy machine."""


def section() -> str:
    """README's part on one's own photographs."""
    return (ROOT / "README.md").read_text().partition("\n## Your own photographs\n")[2].partition("\n## ")[0]


def indented(first_line: str) -> list[str]:
    """The lines of the section's indented block that begins like this."""
    found = re.search(rf"^    {re.escape(first_line)}.*\n(?:    .*\n)*", section(), flags=re.MULTILINE)
    assert found, f"README has no block that begins with {first_line}"
    return [line[4:] for line in found[0].splitlines()]


def command_lines() -> list[str]:
    """The section's command lines, in order."""
    return re.findall(r"^    (tag2mask .*)$", section(), flags=re.MULTILINE)


def draw(tags: tuple[str, ...], size: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A photograph of cups and cars on a mottled ground, and its mask of 1 for cup, 2 for car."""
    width, height = size
    ground = rng.integers(60, 200, 3) + rng.normal(0, 14, (height // 8 + 1, width // 8 + 1, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    mask = Image.new("L", size, BACKGROUND)
    for place, tag in enumerate(tags):
        side = min(size) * rng.uniform(0.3, 0.4)
        left, top = width * (place + 0.5) / len(tags) - side / 2, height * rng.uniform(0.2, 0.5)
        for canvas, light in ((ImageDraw.Draw(image), True), (ImageDraw.Draw(mask), False)):
            if tag == "Tasse":
                colour, rim = ((235, 235, 240), (90, 110, 160)) if light else (1, 1)
                canvas.arc((left + side * 0.6, top + side * 0.25, left + side, top + side * 0.75), -110, 110, rim, 5)
                canvas.rounded_rectangle((left, top, left + side * 0.75, top + side), side / 6, colour)
                canvas.ellipse((left, top - side * 0.12, left + side * 0.75, top + side * 0.12), rim)
            else:
                colour, wheel = ((190, 25, 30), (25, 25, 25)) if light else (2, 2)
                canvas.rectangle((left, top + side * 0.4, left + side, top + side * 0.75), colour)
                canvas.rectangle((left + side * 0.2, top + side * 0.15, left + side * 0.75, top + side * 0.4), colour)
                for axle in (0.2, 0.8):
                    middle = left + side * axle
                    canvas.ellipse((middle - side / 8, top + side * 0.62, middle + side / 8, top + side * 0.87), wheel)
    return image, mask


def take_photographs(photos: Path, truth: Path) -> dict[str, tuple[str, ...]]:
    """Photographs of somebody's own, and true masks of some beside them; returns tags by path."""
    rng = np.random.default_rng(7)
    wanted: list[tuple[str, ...]] = [*[("Tasse",)] * 10, *[("red car",)] * 9, *[CLASSES] * 3, *[()] * 4]
    names = ["Ferien 2024/IMG 0001.JPG", "Ferien 2024/IMG 0002.JPG", "küche, links.png", "küche, rechts.png"]
    names += [f"Ferien 2024/Tag {1 + index % 3}/dsc{index:04d}.jpg" for index in range(len(wanted) - len(names))]
    tagged = dict(zip(names, [wanted[index] for index in rng.permutation(len(wanted))], strict=True))
    for index, (name, tags) in enumerate(tagged.items()):
        size = (int(rng.integers(120, 180)), int(rng.integers(90, 130)))
        image, mask = draw(tags, size[:: -1 if index % 4 == 0 else 1], rng)
        exif = Image.Exif()
        stored = image
        if name == names[1]:
            stored = image.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = TURNED
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        stored.save(path, exif=exif)
        if index < 6:
            target = truth / Path(name).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            write_mask(target, np.asarray(mask))
    return tagged


def write_table(path: Path, tagged: dict[str, tuple[str, ...]]) -> None:
    """The table of tags, in the form of README's example."""
    header, *rows = list(csv.reader(indented("image_path,")))
    several = next(label for _, label in rows if "," in label)
    assert all(name in section() for name in several.split(","))
    assert any(not label for _, label in rows)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows((name, ",".join(tags)) for name, tags in tagged.items())


def size_on_screen(photograph: Path) -> tuple[int, int]:
    """Width and height as a viewer shows it."""
    with Image.open(photograph) as image:
        return ImageOps.exif_transpose(image).size


@dataclass
class Followed:
    """What came of README's command lines.

    Attributes:
        home: folder they were given in.
        tagged: tags by the photographs' paths.
        words: settings put in besides README's own.
        status: exit status by line; lines for a device that is not here are left out.
        output: what each line printed, standard output and errors.
        workspace_after: by line, whether there was a workspace when it was done.
        fingerprint: of the run.
    """

    home: Path
    tagged: dict[str, tuple[str, ...]]
    words: str
    status: dict[str, int] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)
    workspace_after: dict[str, bool] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def run(self) -> Path:
        """Folder of the run."""
        return self.home / "workspace" / "runs" / f"cam-{self.fingerprint}"

    @property
    def training(self) -> str:
        """The line that trains."""
        return next(line for line in self.status if line.startswith("tag2mask run") and "--dry_run" not in line)

    def give(self, line: str) -> None:
        """Gives one command line."""
        typed = line.replace("FINGERPRINT", self.fingerprint)
        if self.words:
            typed = re.sub(r"epochs \d+", "epochs 2", typed).replace("run cam", f"run cam {self.words}")
            typed = typed.replace("tag2mask predict", "tag2mask predict --threads 1")
        heard = io.StringIO()
        with contextlib.chdir(self.home), contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            try:
                self.status[line] = main(shlex.split(typed)[1:])
            except SystemExit as refused:
                self.status[line] = int(refused.code or 0)
        self.output[line] = heard.getvalue()
        self.workspace_after[line] = (self.home / "workspace").exists()
        if not self.fingerprint and (runs := list((self.home / "workspace" / "runs").glob("cam-*"))):
            self.fingerprint = runs[0].name.removeprefix("cam-")


@pytest.fixture(scope="module", params=["quick", pytest.param("as written", marks=pytest.mark.slow)])
def followed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Followed:
    home = tmp_path_factory.mktemp("home")
    tree = indented("photos/")
    photos = home / tree[0].rstrip("/")
    tagged = take_photographs(photos, home / "truth")
    write_table(photos / tree[1].strip(), tagged)
    (home / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    found = Followed(home, tagged, QUICK if request.param == "quick" else "")
    for line in command_lines():
        if "--device cuda" not in line or torch.cuda.is_available():
            found.give(line)
    return found


def every_photograph(followed: Followed) -> Iterator[tuple[str, Path]]:
    """Ids and files of the photographs."""
    for name in followed.tagged:
        yield Path(name).with_suffix("").as_posix(), followed.home / "photos" / name


def test_every_command_succeeds(followed: Followed) -> None:
    failed = {line: followed.output[line] for line, status in followed.status.items() if status}
    assert not failed
    spoken = " ".join(followed.status)
    steps = ("data check", "--dry_run", "run cam", "report", "predict", "--tags", "evaluate", "data convert", "prune")
    for step in steps:
        assert step in spoken, f"README's quick start has no {step}"


def test_the_check_tells_what_is_there(followed: Followed) -> None:
    told = next(text for line, text in followed.output.items() if "data check" in line)
    assert str(len(followed.tagged)) in told
    for name in CLASSES:
        assert name in told


def test_a_dry_run_leaves_nothing(followed: Followed) -> None:
    dry = next(line for line in followed.status if "--dry_run" in line)
    assert "to do" in followed.output[dry]
    assert list(followed.status).index(dry) < list(followed.status).index(followed.training)
    assert not followed.workspace_after[dry]
    assert followed.workspace_after[followed.training]  # it would have been seen


def test_the_report_says_that_there_is_no_truth(followed: Followed) -> None:
    page = (followed.run / "report.html").read_text()
    assert str(Path("runs") / followed.run.name / "report.html") in followed.output[followed.training]
    assert "no true masks" in page.lower()
    assert "held out" in page
    for name in CLASSES:
        assert name in page
    metrics = json.loads((followed.run / "run.json").read_text())["metrics"]
    assert "mean_average_precision" in metrics["classifier"]
    assert "val" not in metrics


def test_all_photographs_have_masks_of_their_own_size(followed: Followed) -> None:
    for folder in (followed.run / "masks", followed.home / "masks" / "masks"):
        for image_id, photograph in every_photograph(followed):
            mask = read_mask(folder / f"{image_id}.png")
            assert mask.shape[::-1] == size_on_screen(photograph), photograph
            assert set(np.unique(mask)) <= set(range(BACKGROUND, len(CLASSES) + 1))
        assert len(list(folder.rglob("*.png"))) == len(followed.tagged)


def test_known_tags_restrict_masks(followed: Followed) -> None:
    # The line with tags comes last, so that these are its masks.
    for name, tags in followed.tagged.items():
        mask = read_mask(followed.home / "masks" / "masks" / Path(name).with_suffix(".png"))
        assert set(np.unique(mask)) <= {BACKGROUND, *(1 + CLASSES.index(tag) for tag in tags)}


def test_evaluating_names_the_classes(followed: Followed) -> None:
    told = next(text for line, text in followed.output.items() if "evaluate" in line)
    for name in ("background", *CLASSES):
        assert name in told


def tags_of(dataset: Dataset) -> list[tuple[str, ...]]:
    """Tags of all photographs, in an order that no layout decides."""
    samples = [*dataset.train, *(dataset.val or ())]
    return sorted(tuple(sorted(dataset.classes[tag - 1] for tag in sample.tags)) for sample in samples)


def test_the_converted_data_set_is_the_same(followed: Followed) -> None:
    words = shlex.split(next(line for line in followed.status if "data convert" in line))
    written = open_dataset(followed.home / words[4])
    assert tags_of(written) == tags_of(open_dataset(followed.home / words[3]))
    assert tags_of(written) == sorted(tuple(sorted(tags)) for tags in followed.tagged.values())


def test_the_same_command_again_changes_nothing(followed: Followed) -> None:
    def state() -> tuple[dict[str, bytes], dict[Path, int]]:
        stages = followed.home / "workspace" / "stages"
        times = {path: path.stat().st_mtime_ns for path in stages.rglob("*") if path.is_file()}
        artifacts = file_bytes(followed.home / "workspace")
        return {name: content for name, content in artifacts.items() if not name.endswith("report.html")}, times

    before = state()
    followed.give(followed.training)
    assert followed.status[followed.training] == 0
    stages = json.loads((followed.run / "run.json").read_text())["stages"]
    assert followed.output[followed.training].count("already there") == len(stages)
    assert state() == before


@AS_WRITTEN
def test_masks_lie_on_their_objects(followed: Followed) -> None:
    scores = tag2mask.evaluate(followed.run / "masks", followed.home / "truth", classes=CLASSES)
    assert scores.mean_iou > 0.6  # 0.8 and more when this was written; background everywhere would give 0.3


@AS_WRITTEN
def test_the_same_from_python(followed: Followed, capsys: pytest.CaptureFixture[str]) -> None:
    """After the command: the run is there, and Python finds it."""
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    with contextlib.chdir(followed.home):
        exec(code, {})
    printed = capsys.readouterr().out
    assert followed.run.name in printed
    assert printed.count("overlays") == len(followed.tagged)
