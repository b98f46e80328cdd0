"""`tag2mask report`: a run's page, made again."""

import argparse
from typing import TYPE_CHECKING

from tag2mask.commands.parsers import add_command

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands

DESCRIPTION = """\
Writes the page of a finished run again, from what is in its workspace. Nothing is trained or predicted.

  tag2mask report workspace/runs/cam-d462182303ea8266
  tag2mask report workspace/runs/cam-d462182303ea8266 --out for-the-team.html --gallery 100
"""


def register(commands: "Commands") -> None:
    """Adds the command."""
    parser = add_command(commands, "report", _report, "write the page of a finished run again", DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="folder of a run, or its run.json")
    parser.add_argument("--out", metavar="FILE", help="the HTML file (default: report.html in the run's folder)")
    parser.add_argument(
        "--gallery", metavar="N", type=int, help="photographs in the gallery, 0 for none (default: as the run has it)"
    )


def _report(arguments: argparse.Namespace) -> int:
    from tag2mask.verbs import report

    print(f"report:   {report(arguments.run, out=arguments.out, gallery=arguments.gallery)}")
    return 0
