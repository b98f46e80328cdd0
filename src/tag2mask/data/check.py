"""Contents and faults of a data set: every image and every mask is read."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np

from tag2mask.base.processors import cpu_count
from tag2mask.data.classes import UNLABELLED
from tag2mask.data.datasets import Layout, open_dataset
from tag2mask.data.findings import LARGE, NOTES, SMALL, DataCheck, Note, SizeCheck, SplitCheck, UnusableData
from tag2mask.data.hold_out import DEFAULT_HOLD_OUT, TOO_FEW, hold_out
from tag2mask.data.images import ImageFacts, content_digest, inspect_image
from tag2mask.data.problems import Problem
from tag2mask.data.records import DEFAULT_TRAIN_LIST, DEFAULT_VAL_LIST
from tag2mask.data.samples import Dataset, Sample, Split
from tag2mask.data.truth import read_true_mask
from tag2mask.errors import DataError, SettingsError


@dataclass(frozen=True)
class _Seen:
    """Findings from reading one image and its mask.

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
    """Reads an image and its mask."""
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
    if facts.height * facts.width > LARGE:
        yield "large"
    if min(facts.height, facts.width) < SMALL:
        yield "small"


class _Findings:
    """Gathers problems and notes, and names images and tags in them."""

    def __init__(self, dataset: Dataset, problems: Sequence[Problem]) -> None:
        self._dataset = dataset
        self._problems = list(problems)
        self._notes: dict[str, list[str]] = {kind: [] for kind in NOTES}

    def add_photograph(self, sample: Sample, seen: _Seen) -> None:
        """Add the findings of one image and its mask."""
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
        """Add what the lists lack, and what they have in common."""
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

    Tables and lists are read to their end, whatever is wrong with single rows; every image and every mask is decoded.
    Nothing is written.

    Args:
        root: folder of the data set.
        layout: this and the following are `open_dataset`'s.
        threads: images that are read at a time; 0 takes all processors.
        progress: called as ``progress(done, total)`` after each image.

    Returns:
        the findings: `text()` for people, `to_dict()` for programs, `ok` for both.

    Raises:
        SettingsError: an option is impossible.
        UnusableData: a DataError that has the problems found until then: the data set is unusable as a whole. No
            layout fits, a table has no header, no class is named, or not one image is left to look at.
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
