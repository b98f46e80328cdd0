"""`tag2mask study`: comparisons that papers make beside their method."""

import argparse
from typing import TYPE_CHECKING

from tag2mask.commands.parsers import add_command, add_group, add_machine, machine_of

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands
    from tag2mask.study.page import StudyResult

SUPERPIXELS_HELP = """\
Compares superpixels discovered in a self-supervised transformer with other features, other rules and SLIC, SEEDS and
LSC: undersegmentation error, boundary precision and recall, achievable accuracy, on the training photographs that have
true masks. A study that was killed goes on where it stopped.

  tag2mask study superpixels --data photos --photographs 100
  tag2mask study superpixels --data VOCdevkit --out study --tau 0 0.3 0.6
"""

DCP_HELP = """\
Shows what the method dcp goes by, at several blocks of the classifier: how much of the variance the first components
of each class hold, where pixels of the class and others lie on the first two, and the masks that come of it.
Photographs with tags are enough; where there are true masks, pixels are coloured and masks scored by them. Classifier
and CAMs are shared with runs of dcp in the same workspace, and a study that was killed goes on where it stopped.

  tag2mask study dcp --data photos
  tag2mask study dcp --data VOCdevkit --blocks blocks.5 blocks.6 --classes dog sheep
"""


def register(commands: "Commands") -> None:
    """Adds the command."""
    group = add_group(commands, "study", "comparisons that papers make beside their method")

    sub = add_command(group, "superpixels", _superpixels, "how good superpixels are, ours and others", SUPERPIXELS_HELP)
    _add_data(sub, "photographs with true masks", "superpixel-study")
    sub.add_argument("--photographs", type=int, metavar="N", help="how many, evenly spread; 0 for all (default)")
    sub.add_argument("--tau", type=float, nargs="+", metavar="TAU", help="thresholds (default: 0, 0.1 ... 0.8)")
    sub.add_argument("--config", metavar="YAML", help="more settings, see docs/superpixel-study.md")
    add_machine(sub)

    sub = add_command(group, "dcp", _dcp, "what class patterns are made of, block by block", DCP_HELP)
    _add_data(sub, "tagged photographs, with true masks or without", "dcp-study")
    sub.add_argument(
        "--config",
        metavar="PRESET",
        default="small/dcp",
        help="settings of the method dcp: a preset or a YAML (default: %(default)s)",
    )
    sub.add_argument(
        "--blocks", nargs="+", metavar="BLOCK", help="of the classifier's backbone (default: its last four)"
    )
    sub.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="whose pixels are shown (default: six with the most photographs)"
    )
    sub.add_argument(
        "--photographs",
        type=int,
        default=6,
        metavar="N",
        help="how many masks are shown of, evenly spread (default: %(default)s)",
    )
    add_machine(sub)
    # What is not given is the configuration's.
    sub.set_defaults(machine=machine_of(sub.parse_args(["--data", ""])))


def _add_data(parser: argparse.ArgumentParser, data: str, out: str) -> None:
    """Adds what every study needs: photographs, workspace and a folder for its page.

    Args:
        parser: of the study.
        data: help of the photographs.
        out: the folder by default.
    """
    parser.add_argument("--data", required=True, metavar="FOLDER", help=data)
    parser.add_argument("--workspace", default="workspace", help="folder that keeps all results (default: %(default)s)")
    parser.add_argument(
        "--out", default=out, metavar="DIR", help="gets the page and all figures (default: %(default)s)"
    )
    parser.add_argument(
        "--layout", default="auto", help="of the folder: voc, csv, folders or coco (default: %(default)s finds out)"
    )
    parser.add_argument(
        "--train_list", metavar="LIST", default="train", help="VOC's and COCO's layout: list to study (%(default)s)"
    )


def _superpixels(arguments: argparse.Namespace) -> int:
    from tag2mask.api.study_superpixels import study_superpixels

    result = study_superpixels(
        arguments.data,
        workspace=arguments.workspace,
        out=arguments.out,
        photographs=arguments.photographs,
        tau=arguments.tau,
        config=arguments.config,
        layout=arguments.layout,
        train_list=arguments.train_list,
        **machine_of(arguments),
    )
    return _told(result)


def _dcp(arguments: argparse.Namespace) -> int:
    from tag2mask.api.study_dcp import study_dcp

    machine = machine_of(arguments)
    result = study_dcp(
        arguments.data,
        workspace=arguments.workspace,
        out=arguments.out,
        config=arguments.config,
        blocks=arguments.blocks,
        classes=arguments.classes,
        photographs=arguments.photographs,
        layout=arguments.layout,
        train_list=arguments.train_list,
        **{name: value for name, value in machine.items() if value != arguments.machine[name]},
    )
    return _told(result)


def _told(result: "StudyResult") -> int:
    print(f"figures:  {result.folder / 'study.json'}")
    print(f"report:   {result.report}")
    return 0
