"""`tag2mask report`: a run's page, made again."""

import argparse
from typing import TYPE_CHECKING

from tag2mask.commands.parsers import TRUTH, add_allow_pickle, add_command

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands

DESCRIPTION = """\
Writes the page of a finished run again, from what is in its workspace. Nothing is trained or predicted.

  tag2mask report workspace/runs/cam-d462182303ea8266
  tag2mask report cam-d462 --out for-the-team.html --gallery 100
"""


def register(commands: "Commands") -> None:
    """Adds the command."""
    parser = add_command(commands, "report", _report, "write the page of a finished run again", DESCRIPTION)
    parser.add_argument(
        "run",
        metavar="RUN",
        help="folder of a run or a file in it, or its name in ./workspace, or the beginning of that",
    )
    parser.add_argument("--out", metavar="FILE", help="the HTML file (default: report.html in the run's folder)")
    parser.add_argument(
        "--gallery", metavar="N", type=int, help="photographs in the gallery, 0 for none (default: as the run has it)"
    )
    add_allow_pickle(parser, "the run's labels_npy")


def _report(arguments: argparse.Namespace) -> int:
    from tag2mask.api.report import report

    page = report(
        arguments.run,
        out=arguments.out,
        gallery=arguments.gallery,
        allow_pickle=TRUTH[arguments.allow_pickle],
    )
    print(f"report:   {page}")
    return 0
