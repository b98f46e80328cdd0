"""Writing a data set in another layout: the same images, tags, lists and masks, as other programs want them."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

from tag2mask.base.files import ASIDE_SUFFIX
from tag2mask.data.datasets import Layout, open_dataset
from tag2mask.data.images import image_size
from tag2mask.data.records import DEFAULT_TRAIN_LIST, DEFAULT_VAL_LIST
from tag2mask.data.truth import read_true_mask
from tag2mask.data.writers import SPLITS, WRITERS, Target, Writer, new_file
from tag2mask.errors import DataError, SettingsError, unknown_choice


def _place(source: Path, target: Path, *, link: bool) -> bool:
    """Puts an image's bytes somewhere else; whether a hard link could be made, if one was wanted."""
    new_file(target)
    if link:
        try:
            target.hardlink_to(source.resolve())
        except OSError:  # another file system, or one without hard links
            link = False
        else:
            return True
    shutil.copyfile(source, target)
    return link


def _check_target(target: Path, sources: Iterable[Path]) -> None:
    """Raises DataError unless the folder is new or empty and apart from what is read."""
    if target.exists() and not target.is_dir():
        raise DataError(f"{target}: is a file, but a new or empty folder is expected")
    there = sorted(path.name for path in target.iterdir()) if target.exists() else []
    if there == [ASIDE_SUFFIX]:
        raise DataError(f"{target}: holds what an interrupted conversion has left ({ASIDE_SUFFIX}); remove it")
    if there:
        raise DataError(f"{target}: holds other files ({there[0]}); a new or empty folder is expected")
    for source in sources:
        if target.resolve().is_relative_to(source.resolve()):
            raise DataError(f"{target}: lies in {source}, and would become a part of what is converted")


def _fill(writer: Writer, *, link: bool, progress: Callable[[int, int], None]) -> None:
    """Writes images and masks, then tables and lists."""
    dataset = writer.dataset
    samples = writer.samples()
    linked = link
    for done, (name, sample) in enumerate(samples, start=1):
        linked = _place(sample.image, writer.root / writer.photograph(name, sample), link=linked)
        if sample.mask is not None:
            mask = read_true_mask(sample, image_size(sample.image), dataset.num_classes)
            assert mask is not None
            writer.mask(sample, mask)
        progress(done, len(samples))
    if link and not linked:
        writer.say("hard links cannot be made there: photographs were copied")
    writer.finish()


def _check_copy(writer: Writer) -> None:
    """Reads back what was written: a layout has more ways to misunderstand a name than can be listed.

    Raises:
        DataError: it is not the same data set.
    """
    try:
        copy = open_dataset(writer.root, **writer.reading)
    except DataError as error:
        raise writer.error(str(error)) from error
    expected = {
        (name, writer.photograph(name, sample)): writer.tags(sample)
        for name, split in writer.splits()
        for sample in split
    }
    found = {
        (name, sample.image.relative_to(copy.root).as_posix()): sample.tags
        for name, split in zip(SPLITS, copy.splits, strict=False)
        for sample in split
    }
    different = [path for (name, path), tags in expected.items() if found.get((name, path)) != tags]
    if copy.classes != writer.dataset.classes or found != expected:
        what = f"the tags of {different[0]}" if different else "the class names"
        raise writer.error(f"{what} would be read otherwise")


def convert_data(
    source: str | Path,
    target: str | Path,
    to: Target,
    *,
    layout: Layout = "auto",
    train_list: str = DEFAULT_TRAIN_LIST,
    val_list: str | None = DEFAULT_VAL_LIST,
    labels_csv: str | Path | None = None,
    val_csv: str | Path | None = None,
    labels_npy: str | Path | None = None,
    allow_pickle: bool = False,
    link: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Writes a data set in another layout.

    Images keep bytes and names, masks become palette PNGs (in COCO's layout regions of annotations); the lists are
    called train and val. Nothing can be read in the folder before everything is written: until then all lies in a
    hidden folder in it, which a killed conversion leaves behind.

    Args:
        source: folder of the data set.
        target: a new or empty folder.
        to: ``"csv"`` (a table of labels), ``"one-hot"`` (a table with a column per class), ``"folders"`` (one per
            class), ``"voc"``, ``"coco"``, or ``"npy"`` (VOC's with a pickled ``cls_labels.npy`` for tags).
        layout: this and the following are `open_dataset`'s.
        link: make hard links of the images, which take no room, where the file system can.
        progress: called as ``progress(done, total)`` after each image.
        say: told in one line what had to be given up.

    Returns:
        the folder.

    Raises:
        SettingsError: an option is impossible.
        DataError: the data set has a problem, the folder holds something, or the layout cannot hold the data set.
        OSError: a file cannot be written.
    """
    if to not in WRITERS:
        raise SettingsError(unknown_choice("layout to write", to, get_args(Target)))
    dataset = open_dataset(
        source,
        layout=layout,
        train_list=train_list,
        val_list=val_list,
        labels_csv=labels_csv,
        val_csv=val_csv,
        labels_npy=labels_npy,
        allow_pickle=allow_pickle,
    )
    target = Path(target)
    _check_target(target, [Path(source), dataset.root])
    aside, fresh = target / ASIDE_SUFFIX, not target.exists()
    writer = WRITERS[to](to, aside, dataset, say or (lambda line: None))
    writer.check()
    try:
        aside.mkdir(parents=True)
        _fill(writer, link=link, progress=progress or (lambda done, total: None))
        _check_copy(writer)
        for path in sorted(aside.iterdir(), key=lambda path: path.name == writer.last):
            path.rename(target / path.name)
        aside.rmdir()
    except BaseException:
        shutil.rmtree(target if fresh else aside, ignore_errors=True)
        raise
    return target
