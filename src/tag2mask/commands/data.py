"""`tag2mask data`: looking at a data set and changing its layout."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tag2mask.commands.parsers import TRUTH, add_allow_pickle, add_command, add_group

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands
    from tag2mask.data.findings import DataCheck

CHECK_HELP = """\
Reads every table, photograph and mask of a data set, tells what is in it and lists everything that is wrong with it.

  tag2mask data check photos
  tag2mask data check photos --json check.json

Exit status: 0 no problem, 1 problems, 2 the data set cannot be read as a whole (what was found until then is told).
"""

CONVERT_HELP = """\
Writes a data set in another layout: a table of labels (csv) or with a column per class (one-hot), a folder per class
(folders), PASCAL VOC's (voc), the same with a pickled cls_labels.npy for tags (npy), or COCO's (coco).

  tag2mask data convert photos photos-coco --to coco
  tag2mask data convert VOCdevkit photos --to csv --train_list trainaug --link
"""


def register(commands: "Commands") -> None:
    """Adds the command."""
    group = add_group(commands, "data", "look at a data set, or change its layout")

    sub = add_command(group, "check", _check, "what is in a data set, and what is wrong with it", CHECK_HELP)
    sub.add_argument("path", metavar="PATH", help="folder of tagged photographs")
    _add_reading(sub)
    sub.add_argument("--json", metavar="FILE", help="write all findings to this file too")
    sub.add_argument("--threads", type=int, default=0, help="0 takes all processors (default: %(default)s)")

    sub = add_command(group, "convert", _convert, "write a data set in another layout", CONVERT_HELP)
    sub.add_argument("source", metavar="SRC", help="folder of tagged photographs")
    sub.add_argument("target", metavar="DST", help="new or empty folder")
    sub.add_argument("--to", required=True, metavar="LAYOUT", help="csv, one-hot, folders, voc, npy or coco")
    _add_reading(sub)
    sub.add_argument("--link", action="store_true", help="hard links of the photographs instead of copies")


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Options that say how a data set is read; a run has the same."""
    parser.add_argument(
        "--layout", default="auto", help="of the folder: voc, csv, folders or coco (default: %(default)s finds out)"
    )
    lists = "VOC's and COCO's layout: name or path of the list to"
    parser.add_argument(
        "--train_list", metavar="LIST", default="train", help=f"{lists} train on (default: %(default)s)"
    )
    parser.add_argument("--val_list", metavar="LIST", default="val", help=f"{lists} measure on (default: %(default)s)")
    parser.add_argument("--labels_csv", metavar="CSV", help="table of tags, if it is not the only one in the folder")
    parser.add_argument("--val_csv", metavar="CSV", help="table of the photographs to measure on")
    parser.add_argument("--labels_npy", metavar="NPY", help="VOC's layout: a cls_labels.npy of tags")
    add_allow_pickle(parser, "--labels_npy")


def _reading(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("layout", "train_list", "val_list", "labels_csv", "val_csv", "labels_npy")
    chosen = {name: getattr(arguments, name) for name in names}
    return {**chosen, "allow_pickle": TRUTH[arguments.allow_pickle]}


def _check(arguments: argparse.Namespace) -> int:
    from tag2mask.base.files import write_json
    from tag2mask.data.check import check_data
    from tag2mask.data.findings import UnusableData
    from tag2mask.engine.progress import Reporter

    found: DataCheck | UnusableData
    try:
        found = check_data(
            arguments.path,
            **_reading(arguments),
            threads=arguments.threads,
            progress=Reporter().callback("reading"),
        )
    except UnusableData as error:
        found = error
    if arguments.json:
        write_json(Path(arguments.json), found.to_dict())
    if text := found.text():
        print(text, flush=True)  # before the error, which is on the other stream
    if isinstance(found, UnusableData):
        raise found
    return 0 if found.ok else 1


def _convert(arguments: argparse.Namespace) -> int:
    from tag2mask.data.convert import convert_data
    from tag2mask.engine.progress import Reporter

    reporter = Reporter()
    written = convert_data(
        arguments.source,
        arguments.target,
        arguments.to,
        **_reading(arguments),
        link=arguments.link,
        progress=reporter.callback("writing"),
        say=reporter.say,
    )
    print(f"written: {written}")
    return 0
