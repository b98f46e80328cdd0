"""A data set as the rest of the package sees it: images, their tags, and masks only where somebody drew them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tag2mask.data.classes import MAX_CLASSES
from tag2mask.errors import DataError

BACKGROUND_NAME = "background"
"""Name of class 0 in tables and model files; no foreground class may have it."""


def is_background(name: str) -> bool:
    """True if a name is that of class 0, in capitals or not."""
    return name.lower() == BACKGROUND_NAME


def no_class_name(name: str) -> str:
    """Message that a name of class 0 cannot be that of a foreground class."""
    return f"'{name}' is class 0 already and cannot be a class of its own"


def check_id(sample_id: str) -> str:
    """Returns the id if artifact files can safely be keyed by it.

    Args:
        sample_id: path of an image relative to its image folder, without suffix, with forward slashes.

    Raises:
        DataError: the id is empty or absolute, contains a backslash or what is no printable text, or steps
            outside its folder (``.``, ``..``).
    """
    if not sample_id.isprintable():
        raise DataError(
            f"{sample_id!r} cannot be the id of a photograph: its name has control characters in it or is not "
            "UTF-8; rename the file"
        )
    # The path classes drop "." and doubled slashes, so the parts are compared with the text itself.
    parts = sample_id.split("/")
    unsafe = (
        PurePosixPath(sample_id).is_absolute()
        or bool(PureWindowsPath(sample_id).drive)
        or any(part in ("", ".", "..") for part in parts)
        or "\\" in sample_id
    )
    if unsafe:
        raise DataError(
            f"'{sample_id}' cannot be the id of a photograph: a relative path without '.', '..' and '\\' is expected"
        )
    return sample_id


class TrueMask(Protocol):
    """Source of the true mask of an image: a file of its own, or outlines that are drawn when asked for.

    ``str()`` of it names the place for messages.
    """

    def read(self) -> npt.NDArray[np.uint8]:
        """Class ids, uint8 of shape (H, W), 255 where unknown.

        Raises:
            DataError: it cannot be read.
        """

    def size(self) -> tuple[int, int] | None:
        """Height and width that the mask will have, or None where only reading it tells."""

    def digest(self, of_file: Callable[[Path], str]) -> str:
        """Digest of all that the mask depends on; `of_file` gives that of a file's content."""


@dataclass(frozen=True)
class Sample:
    """One tagged image.

    Attributes:
        id: path of the image relative to its image folder, without suffix, with forward slashes.
        image: its file.
        tags: ids of the foreground classes in it, ascending, from 1; empty when it shows background only.
        mask: its true mask, or None. Nothing here opens it.

    Raises:
        DataError: the id is unsafe as a file name, or the tags are not ascending ids from 1.
    """

    id: str
    image: Path
    tags: tuple[int, ...]
    mask: TrueMask | None = None

    def __post_init__(self) -> None:
        check_id(self.id)
        if list(self.tags) != sorted(set(self.tags)) or (self.tags and self.tags[0] < 1):
            raise DataError(f"{self.image}: tags {self.tags} are not ascending class ids from 1")


@dataclass(frozen=True)
class Split:
    """A named list of images with distinct ids.

    Raises:
        DataError: the list is empty or two images share an id.
    """

    name: str
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        if not self.samples:
            raise DataError(f"the list '{self.name}' names no photograph")
        seen: dict[str, Sample] = {}
        for sample in self.samples:
            first = seen.setdefault(sample.id, sample)
            if first is not sample:
                raise DataError(f"two photographs share the id '{sample.id}': {first.image} and {sample.image}")

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """The images by id, in the order of the list."""
        return {sample.id: sample for sample in self.samples}

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


@dataclass(frozen=True)
class Dataset:
    """Tagged images to train on and, where there are any, others to measure on.

    The same image may be in both lists (pseudo-labels are scored on the training list, say); two different images may
    not share an id, because artifacts are keyed by it.

    Attributes:
        root: folder the data set was read from.
        classes: names of the foreground classes; the id of a class is its index + 1.
        train: images to train on.
        val: images to measure on, or None.
        layout: how it was laid out on disk, `"voc"` say; empty if it was not read from there.

    Raises:
        DataError: class names are missing, doubled, too many for one byte or called "background", a tag is no
            class, or an image of val has the id of another one of train.
    """

    root: Path
    classes: tuple[str, ...]
    train: Split
    val: Split | None = None
    layout: str = ""

    def __post_init__(self) -> None:
        if not self.classes:
            raise DataError(f"{self.root}: no class is named, all photographs are background only")
        if len(self.classes) >= MAX_CLASSES:
            raise DataError(
                f"{self.root}: {len(self.classes)} classes, but a mask of one byte per pixel holds {MAX_CLASSES - 1}"
            )
        for name in self.classes:
            if is_background(name):
                raise DataError(f"{self.root}: {no_class_name(name)}")
            if not name or self.classes.count(name) > 1:
                raise DataError(f"{self.root}: the class name '{name}' is empty or there twice")
        for split in self.splits:
            for sample in split:
                if sample.tags and sample.tags[-1] > self.num_classes:
                    raise DataError(f"{sample.image}: tag {sample.tags[-1]}, but there are {self.num_classes} classes")
        if self.val is not None:
            for sample in self.val:
                other = self.train.by_id.get(sample.id)
                if other is not None and other.image != sample.image:
                    raise DataError(f"two photographs share the id '{sample.id}': {other.image} and {sample.image}")

    @property
    def num_classes(self) -> int:
        """Number C of foreground classes."""
        return len(self.classes)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of all C + 1 ids of a mask, background first."""
        return (BACKGROUND_NAME, *self.classes)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The lists that exist."""
        return (self.train,) if self.val is None else (self.train, self.val)

    def sample(self, sample_id: str) -> Sample:
        """The image of an id.

        Raises:
            DataError: no list holds the id.
        """
        for split in self.splits:
            if sample_id in split.by_id:
                return split.by_id[sample_id]
        raise DataError(f"{self.root}: no photograph has the id '{sample_id}'")

    def tag_vector(self, sample: Sample) -> npt.NDArray[np.float32]:
        """Tags as a vector of shape (C,): 1 where the class of id index + 1 is tagged, else 0."""
        vector = np.zeros(self.num_classes, dtype=np.float32)
        vector[np.array(sample.tags, dtype=np.intp) - 1] = 1
        return vector

    def without_masks(self) -> "Dataset":
        """The same images and tags with every mask forgotten: all that training may see."""
        train, *rest = (
            replace(split, samples=tuple(replace(sample, mask=None) for sample in split)) for split in self.splits
        )
        return replace(self, train=train, val=rest[0] if rest else None)
