"""`tag2mask study`: comparisons that papers make beside their method."""

import argparse
from typing import TYPE_CHECKING

from tag2mask.commands.parsers import add_command, add_group, add_machine, machine_of

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands

SUPERPIXELS_HELP = """\
Compares superpixels discovered in a self-supervised transformer with other features, other rules and SLIC, SEEDS and
LSC: undersegmentation error, boundary precision and recall, achievable accuracy, on the training photographs that have
true masks. A study that was killed goes on where it stopped.

  tag2mask study superpixels --data photos --photographs 100
  tag2mask study superpixels --data VOCdevkit --out study --tau 0 0.3 0.6
"""


def register(commands: "Commands") -> None:
    """Adds the command."""
    group = add_group(commands, "study", "comparisons that papers make beside their method")

    sub = add_command(group, "superpixels", _superpixels, "how good superpixels are, ours and others", SUPERPIXELS_HELP)
    sub.add_argument("--data", required=True, metavar="FOLDER", help="photographs with true masks")
    sub.add_argument("--workspace", default="workspace", help="folder that keeps all results (default: %(default)s)")
    sub.add_argument(
        "--out", default="superpixel-study", metavar="DIR", help="gets the page and tables (default: %(default)s)"
    )
    sub.add_argument("--photographs", type=int, metavar="N", help="how many, evenly spread; 0 for all (default)")
    sub.add_argument("--tau", type=float, nargs="+", metavar="TAU", help="thresholds (default: 0, 0.1 ... 0.8)")
    sub.add_argument("--config", metavar="YAML", help="more settings, see docs/superpixel-study.md")
    sub.add_argument(
        "--layout", default="auto", help="of the folder: voc, csv, folders or coco (default: %(default)s finds out)"
    )
    sub.add_argument(
        "--train_list", metavar="LIST", default="train", help="VOC's and COCO's layout: list to study (%(default)s)"
    )
    add_machine(sub)


def _superpixels(arguments: argparse.Namespace) -> int:
    from tag2mask.engine.environment import Runtime
    from tag2mask.study.superpixels.verb import study_superpixels

    result = study_superpixels(
        arguments.data,
        workspace=arguments.workspace,
        out=arguments.out,
        photographs=arguments.photographs,
        tau=arguments.tau,
        config=arguments.config,
        layout=arguments.layout,
        train_list=arguments.train_list,
        runtime=Runtime(**machine_of(arguments)),
    )
    print(f"figures:  {result.folder / 'study.json'}")
    print(f"report:   {result.report}")
    return 0
