"""Findings of a check of a data set, as values and as text for a person."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tag2mask.base.text import plural
from tag2mask.data.problems import Problem
from tag2mask.errors import DataError

_SHOWN_LINES = 20
_SHOWN_NAMES = 3
_INDENT = "  "

LARGE = 50_000_000
"""Pixels of an image from which on it is noted as large."""

SMALL = 32
"""Pixels of the shorter side below which an image is noted as small: less is a single cell of most backbones."""

PROBLEMS = {
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
"""Headings of all kinds of problems: those that readers report, then those that a check finds."""

NOTES = {
    "grey": "grey: become RGB",
    "sixteen-bit": "16-bit grey: scaled to 8 bits",
    "palette": "with a palette of colours: become RGB",
    "cmyk": "CMYK: become RGB, without colour management",
    "transparent": "with transparency: laid on white",
    "animated": "with several frames or pages: the first one counts",
    "turned": "turned by the camera's note (EXIF): shown upright",
    "large": f"larger than {LARGE // 1_000_000} megapixels: need much memory",
    "small": f"with a side under {SMALL} pixels: little can be learnt from them",
    "identical": "the same photograph with the same tags again",
    "on-both-lists": "on both lists: measuring on them says nothing about new photographs",
    "untagged-in-mask": "with classes in the mask that are not among the tags",
    "tagged-not-in-mask": "with tags that the mask does not show",
    "class-without-photographs": "without a photograph to train on: these classes cannot be learnt",
    "similar-classes": "written in several ways, by case or white space: each of them is a class of its own",
}
"""Texts of notes, behind the number of images or classes that they are about."""


@dataclass(frozen=True)
class SplitCheck:
    """Contents of a list of images.

    Attributes:
        name: of the list.
        photographs: how many there are.
        with_mask: how many have a true mask, readable or not.
        tagged: images that are tagged with each class, in the order of the classes.
        by_tags: images with 0, 1, 2, ... tags.
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
        """Mean number of tags of an image."""
        return sum(self.tagged) / self.photographs

    @property
    def pixel_shares(self) -> tuple[float, ...] | None:
        """Shares of `pixels`, 0..1; None where there is no mask."""
        whole = sum(self.pixels)
        return tuple(count / whole for count in self.pixels) if whole else None


@dataclass(frozen=True)
class SizeCheck:
    """Sizes of all images that could be read, as they are shown; (width, height) in pixels.

    Attributes:
        smallest: by area.
        median: by area.
        largest: by area.
        different: number of different sizes.
        landscape: images that are wider than high.
        portrait: images that are higher than wide.
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
        names: the images it is about, relative to the data set's folder, or the classes.
    """

    kind: str
    names: tuple[str, ...]

    @property
    def title(self) -> str:
        """Meaning of the kind."""
        return NOTES[self.kind]


@dataclass(frozen=True)
class DataCheck:
    """Findings of `check_data`.

    Attributes:
        root: folder of the data set.
        layout: the layout it has.
        classes: names of the foreground classes.
        splits: what each list holds.
        sizes: None when no image could be read.
        formats: images by file format, the most frequent first.
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
        """True if there is no problem."""
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
        """Images by class and, where there are masks, the share of pixels."""
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
        lines.append(f"{_INDENT}{PROBLEMS[kind]} ({len(messages)}):")
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
