"""What a data set holds and what is wrong with it: every photograph and every mask is read."""

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.base.processors import cpu_count
from tag2mask.base.text import plural
from tag2mask.data.classes import UNLABELLED
from tag2mask.data.csv_folder import DEFAULT_HOLD_OUT, TOO_FEW, hold_out
from tag2mask.data.datasets import Layout, open_dataset
from tag2mask.data.images import ImageFacts, content_digest, inspect_image
from tag2mask.data.problems import Problem
from tag2mask.data.records import DEFAULT_TRAIN_LIST, DEFAULT_VAL_LIST
from tag2mask.data.samples import Dataset, Sample, Split
from tag2mask.data.truth import read_true_mask
from tag2mask.errors import DataError, SettingsError

_SHOWN_LINES = 20
_SHOWN_NAMES = 3
_LARGE = 50_000_000
_SMALL = 32  # of the shorter side: fewer pixels are a single cell of most backbones' feature maps
_INDENT = "  "

_PROBLEMS = {
    "bad-row": "rows that cannot be understood",
    "unsafe-id": "paths and names that cannot be used",
    "missing-photograph": "photographs that are named and not there",
    "missing-mask": "masks that are named and not there",
    "missing-tags": "photographs on a list without tags",
    "no-row": "photographs without a row",
    "duplicate-row": "photographs named twice",
    "duplicate-id": "two photographs of one name",
    "unknown-class": "tags that are no class",
    "stray-file": "files that belong to no class",
    "empty-class": "folders of classes without photographs",
    "empty-file": "empty files",
    "unreadable-photograph": "photographs that cannot be read",
    "unreadable-mask": "masks that cannot be read",
    "mask-size": "masks that do not fit their photograph",
    "mask-class": "masks with ids that are no class",
    "contradictory-tags": "one photograph in several files, with different tags",
    "too-few": "too few photographs for a run",
}
"""Headings of all kinds of problems: those that readers report, then those found here."""

_NOTES = {
    "grey": "grey: become RGB",
    "sixteen-bit": "16-bit grey: scaled to 8 bits",
    "palette": "with a palette of colours: become RGB",
    "cmyk": "CMYK: become RGB, without colour management",
    "transparent": "with transparency: laid on white",
    "animated": "with several frames or pages: the first one counts",
    "turned": "turned by the camera's note (EXIF): shown upright",
    "large": f"larger than {_LARGE // 1_000_000} megapixels: need much memory",
    "small": f"with a side under {_SMALL} pixels: little can be learnt from them",
    "identical": "the same photograph with the same tags again",
    "on-both-lists": "on both lists: measuring on them says nothing about new photographs",
    "untagged-in-mask": "with classes in the mask that are not among the tags",
    "tagged-not-in-mask": "with tags that the mask does not show",
    "class-without-photographs": "without a photograph to train on: these classes cannot be learnt",
    "similar-classes": "written in several ways, by case or white space: each of them is a class of its own",
}
"""What notes say, behind the number of photographs or classes that they are about."""


@dataclass(frozen=True)
class SplitCheck:
    """What a list of photographs holds.

    Attributes:
        name: of the list.
        photographs: how many there are.
        with_mask: how many have a true mask, readable or not.
        tagged: photographs that are tagged with each class, in the order of the classes.
        by_tags: photographs with 0, 1, 2, ... tags.
        pixels: pixels of each of the C + 1 ids in all true masks that could be read, unlabelled ones last.
    """

    name: str
    photographs: int
    with_mask: int
    tagged: tuple[int, ...]
    by_tags: tuple[int, ...]
    pixels: tuple[int, ...]

    @property
    def mean_tags(self) -> float:
        """Mean number of tags of a photograph."""
        return sum(self.tagged) / self.photographs

    @property
    def pixel_shares(self) -> tuple[float, ...] | None:
        """Shares of `pixels`, 0..1; None where there is no mask."""
        whole = sum(self.pixels)
        return tuple(count / whole for count in self.pixels) if whole else None


@dataclass(frozen=True)
class SizeCheck:
    """Sizes of all photographs that could be read, as they are shown; (width, height) in pixels.

    Attributes:
        smallest: by area.
        median: by area.
        largest: by area.
        different: number of different sizes.
        landscape: photographs that are wider than high.
        portrait: photographs that are higher than wide.
        square: all others.
    """

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    different: int
    landscape: int
    portrait: int
    square: int


@dataclass(frozen=True)
class Note:
    """Something that is dealt with and worth knowing.

    Attributes:
        kind: a short key.
        names: the photographs it is about, relative to the data set's folder, or the classes.
    """

    kind: str
    names: tuple[str, ...]

    @property
    def title(self) -> str:
        """What it means."""
        return _NOTES[self.kind]


@dataclass(frozen=True)
class DataCheck:
    """What `check_data` found.

    Attributes:
        root: folder of the data set.
        layout: the layout it has.
        classes: names of the foreground classes.
        splits: what each list holds.
        sizes: None when no photograph could be read.
        formats: photographs by file format, the most frequent first.
        problems: everything that has to be put right, in the order it was found.
        notes: everything that is dealt with.
    """

    root: Path
    layout: str
    classes: tuple[str, ...]
    splits: tuple[SplitCheck, ...]
    sizes: SizeCheck | None
    formats: dict[str, int]
    problems: tuple[Problem, ...]
    notes: tuple[Note, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "root": str(self.root),
            "layout": self.layout,
            "ok": self.ok,
            "classes": list(self.classes),
            "splits": [
                {**asdict(split), "mean_tags": split.mean_tags, "pixel_shares": split.pixel_shares}
                for split in self.splits
            ],
            "sizes": self.sizes and asdict(self.sizes),
            "formats": self.formats,
            "problems": _problem_dicts(self.problems),
            "notes": [{"kind": note.kind, "title": note.title, "names": list(note.names)} for note in self.notes],
        }

    def text(self) -> str:
        """Everything as text for a person: long lists are cut, and say so."""
        blocks = [
            [f"{self.root}: layout {self.layout}, {len(self.classes)} classes"],
            self._photograph_table(),
            self._class_table(),
            self._tag_table(),
            self._files(),
            _problem_lines(self.problems) if self.problems else ["no problems"],
            self._note_lines(),
        ]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def _photograph_table(self) -> list[str]:
        return _table(
            [
                ("list", *(split.name for split in self.splits)),
                ("photographs", *(str(split.photographs) for split in self.splits)),
                ("with a true mask", *(_count(split.with_mask, split.photographs) for split in self.splits)),
            ]
        )

    def _class_table(self) -> list[str]:
        """Photographs by class and, where there are masks, the share of pixels."""
        masked = [(split.name, split.pixel_shares) for split in self.splits if split.pixel_shares is not None]
        columns = [
            ("class", *self.classes, "background", "unlabelled"),
            *((f"photos {split.name}", *map(str, split.tagged), "", "") for split in self.splits),
            *(
                (f"pixels {name}", *(f"{100 * share:.2f} %" for share in (*classes, background, unlabelled)))
                for name, (background, *classes, unlabelled) in masked
            ),
        ]
        rows = list(zip(*columns, strict=True))
        return _table(rows if masked else rows[: 1 + len(self.classes)])

    def _tag_table(self) -> list[str]:
        most = max(len(split.by_tags) for split in self.splits)
        rows = [
            (
                str(number),
                *(str(split.by_tags[number]) if number < len(split.by_tags) else "0" for split in self.splits),
            )
            for number in range(most)
        ]
        means = ("mean", *(f"{split.mean_tags:.2f}" for split in self.splits))
        return _table([("tags per photo", *(split.name for split in self.splits)), *rows, means])

    def _files(self) -> list[str]:
        if self.sizes is None:
            return []
        sizes = self.sizes
        extremes = ", ".join(
            f"{name} {width}x{height}"
            for name, (width, height) in (
                ("smallest", sizes.smallest),
                ("median", sizes.median),
                ("largest", sizes.largest),
            )
        )
        return [
            f"sizes:   {extremes}; {sizes.different} different",
            f"shapes:  {sizes.landscape} landscape, {sizes.portrait} portrait, {sizes.square} square",
            f"formats: {', '.join(f'{count} {name}' for name, count in self.formats.items())}",
        ]

    def _note_lines(self) -> list[str]:
        lines = ["notes (handled, no problems):"] if self.notes else []
        for note in self.notes:
            names = ", ".join(note.names[:_SHOWN_NAMES])
            more = ", ..." if len(note.names) > _SHOWN_NAMES else ""
            lines.append(f"{_INDENT}{len(note.names)} {note.title} ({names}{more})")
        return lines


class UnusableData(DataError):
    """A data set is unusable as a whole, as a rule the sum of what is wrong with its rows.

    Args:
        root: folder of the data set.
        problems: what was found until then, maybe nothing.
        error: what ended the reading.
    """

    def __init__(self, root: Path, problems: Sequence[Problem], error: DataError) -> None:
        after = f"; after {len(problems)} {plural(len(problems), 'problem')}, first: " if problems else ""
        super().__init__(f"{error}{after}{problems[0].message if problems else ''}")
        self.root = root
        self.problems = tuple(problems)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values, under the keys of `DataCheck.to_dict` where it has them."""
        return {"root": str(self.root), "ok": False, "problems": _problem_dicts(self.problems), "error": str(self)}

    def text(self) -> str:
        """The problems as `DataCheck.text` has them; empty without any."""
        return "\n".join(_problem_lines(self.problems)) if self.problems else ""


def _problem_dicts(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"kind": problem.kind, "message": problem.message} for problem in problems]


def _problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Problems by kind; long lists are cut, and say so."""
    by_kind: dict[str, list[str]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem.message)
    lines = [f"problems: {len(problems)}"]
    for kind, messages in by_kind.items():
        lines.append(f"{_INDENT}{_PROBLEMS[kind]} ({len(messages)}):")
        shown = messages[:_SHOWN_LINES]
        if len(messages) > len(shown):
            shown = [*shown, f"... and {len(messages) - len(shown)} more (--json has all)"]
        lines += [textwrap.indent(message, 2 * _INDENT) for message in shown]
    return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{width}}" if index else f"{cell:<{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _count(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.0f} %)"


@dataclass(frozen=True)
class _Seen:
    """What reading one photograph and its mask told.

    Attributes:
        facts: None when it cannot be read.
        digest: of the file's bytes; None when it cannot be read.
        pixels: pixels by id in the mask; None when there is none or it cannot be read.
        problems: everything wrong with the two files.
    """

    facts: ImageFacts | None
    digest: str | None
    pixels: dict[int, int] | None
    problems: tuple[Problem, ...]


def _look(sample: Sample, num_classes: int) -> _Seen:
    """Reads a photograph and its mask."""
    problems: list[Problem] = []
    facts, digest, pixels = None, None, None
    try:
        facts, digest = inspect_image(sample.image), content_digest(sample.image)
    except DataError as error:
        if sample.image.is_file() and sample.image.stat().st_size == 0:
            problems.append(Problem("empty-file", f"{sample.image}: the file has no content (0 bytes)"))
        else:
            problems.append(Problem("unreadable-photograph", str(error)))
    if sample.mask is not None:
        size = None if facts is None else (facts.height, facts.width)
        mask = read_true_mask(sample, size, num_classes, problems.append)
        if mask is not None:
            ids, counts = np.unique(mask, return_counts=True)
            pixels = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return _Seen(facts, digest, pixels, tuple(problems))


def _kinds(facts: ImageFacts) -> Iterator[str]:
    """Keys of the notes on the kind of image."""
    if facts.mode in ("1", "L", "LA"):
        yield "grey"
    if facts.mode.startswith("I"):
        yield "sixteen-bit"
    if facts.mode in ("P", "PA"):
        yield "palette"
    if facts.mode == "CMYK":
        yield "cmyk"
    if facts.transparent:
        yield "transparent"
    if facts.animated:
        yield "animated"
    if facts.turned:
        yield "turned"
    if facts.height * facts.width > _LARGE:
        yield "large"
    if min(facts.height, facts.width) < _SMALL:
        yield "small"


class _Findings:
    """Gathers problems and notes, and names photographs and tags in them."""

    def __init__(self, dataset: Dataset, problems: Sequence[Problem]) -> None:
        self._dataset = dataset
        self._problems = list(problems)
        self._notes: dict[str, list[str]] = {kind: [] for kind in _NOTES}

    def add_photograph(self, sample: Sample, seen: _Seen) -> None:
        """What one photograph and its mask told."""
        self._problems += seen.problems
        for kind in _kinds(seen.facts) if seen.facts is not None else ():
            self._notes[kind].append(self._name(sample))
        if seen.pixels is not None:
            tags, shown = set(sample.tags), set(seen.pixels) & set(range(1, self._dataset.num_classes + 1))
            for kind, ids in (("untagged-in-mask", shown - tags), ("tagged-not-in-mask", tags - shown)):
                if ids:
                    self._notes[kind].append(f"{self._name(sample)}: {self._tags(sorted(ids))}")

    def add_copies(self, seen: Mapping[str, _Seen]) -> None:
        """Files with the same content, which had better have the same tags."""
        first: dict[str, Sample] = {}
        for sample_id, look in seen.items():
            sample = self._dataset.sample(sample_id)
            other = sample if look.digest is None else first.setdefault(look.digest, sample)
            if other.tags != sample.tags:
                message = (
                    f"{sample.image}: {self._tags(sample.tags)}; "
                    f"the same photograph in {other.image}: {self._tags(other.tags)}"
                )
                self._problems.append(Problem("contradictory-tags", message))
            elif other is not sample:
                self._notes["identical"].append(f"{self._name(sample)} = {self._name(other)}")

    def add_lists(self) -> None:
        """What the lists lack, and what they have in common."""
        trained = {tag for sample in self._dataset.train for tag in sample.tags}
        for label, name in enumerate(self._dataset.classes, start=1):
            if label not in trained:
                # A run trains all the same: VOC's classes are twenty even where a subset shows three.
                self._notes["class-without-photographs"].append(name)
        if self._dataset.val is None and hold_out(self._dataset, DEFAULT_HOLD_OUT, seed=0).val is None:
            self._problems.append(Problem("too-few", f"{self._dataset.root}: {TOO_FEW}"))
        for sample in self._dataset.val or ():
            if sample.id in self._dataset.train.by_id:
                self._notes["on-both-lists"].append(self._name(sample))

    def add_classes(self) -> None:
        """Classes that are probably one, written in several ways."""
        spellings: dict[str, list[str]] = {}
        for name in self._dataset.classes:
            spellings.setdefault("".join(name.split()).casefold(), []).append(name)
        for names in spellings.values():
            if len(names) > 1:
                self._notes["similar-classes"].append(" and ".join(f"'{name}'" for name in names))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """In the order found; what concerns the whole, a missing package say, is met again and again and told once."""
        return tuple(dict.fromkeys(self._problems))

    @property
    def notes(self) -> tuple[Note, ...]:
        """Of the kinds that there are."""
        return tuple(Note(kind, tuple(names)) for kind, names in self._notes.items() if names)

    def _name(self, sample: Sample) -> str:
        root = self._dataset.root
        inside = sample.image.is_relative_to(root)
        return (sample.image.relative_to(root) if inside else sample.image).as_posix()

    def _tags(self, ids: Sequence[int]) -> str:
        return ", ".join(self._dataset.label_names[label] for label in ids) or "no tag"


def _split_check(split: Split, num_classes: int, seen: Mapping[str, _Seen]) -> SplitCheck:
    tagged = Counter(tag for sample in split for tag in sample.tags)
    numbers = Counter(len(sample.tags) for sample in split)
    pixels: Counter[int] = Counter()
    for sample in split:
        pixels.update(seen[sample.id].pixels or {})
    return SplitCheck(
        name=split.name,
        photographs=len(split),
        with_mask=sum(sample.mask is not None for sample in split),
        tagged=tuple(tagged[label] for label in range(1, num_classes + 1)),
        by_tags=tuple(numbers[number] for number in range(max(numbers) + 1)),
        pixels=tuple(pixels[label] for label in (*range(num_classes + 1), UNLABELLED)),
    )


def _size_check(facts: Sequence[ImageFacts]) -> SizeCheck | None:
    if not facts:
        return None
    sizes = sorted(((item.width, item.height) for item in facts), key=lambda size: (size[0] * size[1], size))
    landscape, portrait = (sum(w > h for w, h in sizes), sum(w < h for w, h in sizes))
    return SizeCheck(
        smallest=sizes[0],
        median=sizes[len(sizes) // 2],
        largest=sizes[-1],
        different=len(set(sizes)),
        landscape=landscape,
        portrait=portrait,
        square=len(sizes) - landscape - portrait,
    )


def check_data(
    root: str | Path,
    *,
    layout: Layout = "auto",
    train_list: str = DEFAULT_TRAIN_LIST,
    val_list: str | None = DEFAULT_VAL_LIST,
    labels_csv: str | Path | None = None,
    val_csv: str | Path | None = None,
    labels_npy: str | Path | None = None,
    allow_pickle: bool = False,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DataCheck:
    """Reads a whole data set and tells what is in it, what is wrong with it and what is dealt with.

    Tables and lists are read to their end, whatever is wrong with single rows; every photograph and every mask is
    decoded. Nothing is written.

    Args:
        root: folder of the data set.
        layout: this and the following are `open_dataset`'s.
        threads: photographs that are read at a time; 0 takes all processors.
        progress: called as ``progress(done, total)`` after each photograph.

    Returns:
        the findings: `text()` for people, `to_dict()` for programs, `ok` for both.

    Raises:
        SettingsError: an option is impossible.
        UnusableData: a DataError that has the problems found until then: the data set is unusable as a whole. No
            layout fits, a table has no header, no class is named, or not one photograph is left to look at.
    """
    if threads < 0:
        raise SettingsError(f"threads: {threads} is negative; 0 takes all processors")
    problems: list[Problem] = []
    try:
        dataset = open_dataset(
            root,
            layout=layout,
            train_list=train_list,
            val_list=val_list,
            labels_csv=labels_csv,
            val_csv=val_csv,
            labels_npy=labels_npy,
            allow_pickle=allow_pickle,
            report=problems.append,
        )
    except DataError as error:
        raise UnusableData(Path(root), problems, error) from error

    samples = {sample.id: sample for split in dataset.splits for sample in split}
    seen: dict[str, _Seen] = {}
    with ThreadPool(threads or cpu_count()) as pool:
        looks = pool.imap(partial(_look, num_classes=dataset.num_classes), samples.values())
        for done, (sample_id, look) in enumerate(zip(samples, looks, strict=True), start=1):
            seen[sample_id] = look
            if progress is not None:
                progress(done, len(samples))

    findings = _Findings(dataset, problems)
    for sample_id, look in seen.items():
        findings.add_photograph(samples[sample_id], look)
    findings.add_copies(seen)
    findings.add_lists()
    findings.add_classes()
    facts = [look.facts for look in seen.values() if look.facts is not None]
    return DataCheck(
        root=dataset.root,
        layout=dataset.layout,
        classes=dataset.classes,
        splits=tuple(_split_check(split, dataset.num_classes, seen) for split in dataset.splits),
        sizes=_size_check(facts),
        formats=dict(Counter(item.format for item in facts).most_common()),
        problems=findings.problems,
        notes=findings.notes,
    )
