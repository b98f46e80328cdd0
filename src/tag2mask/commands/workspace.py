"""`tag2mask workspace`: what runs have left, and freeing it."""

import argparse
import json
from typing import TYPE_CHECKING

from tag2mask.commands.parsers import add_command, add_group

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands

LIST_HELP = """\
Runs with their figure, stages with the number of runs that use them, and what each of them takes.

  tag2mask workspace list
  tag2mask workspace list demo/workspace --json
"""

PRUNE_HELP = """\
Frees what no run uses: whole stages that no run's record names, and what killed processes left half-written. Without
--yes it only tells what would go.

  tag2mask workspace prune
  tag2mask workspace prune --run cam-d462 --yes
"""


def register(commands: "Commands") -> None:
    """Adds the command."""
    group = add_group(commands, "workspace", "what runs have left in a workspace, and freeing it")

    sub = add_command(group, "list", _list, "runs and stages of a workspace, and their sizes", LIST_HELP)
    _add_workspace(sub)
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = add_command(group, "prune", _prune, "free what no run uses", PRUNE_HELP)
    _add_workspace(sub)
    sub.add_argument(
        "--run",
        metavar="RUN",
        action="append",
        default=[],
        help="delete this run too, with the stages only it uses: a name, the beginning of one, or a path; may be "
        "given several times",
    )
    sub.add_argument(
        "--unfinished", action="store_true", help="delete unfinished runs and stages too, which could be gone on from"
    )
    sub.add_argument("--yes", action="store_true", help="delete it; without this nothing is deleted")


def _add_workspace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "workspace", metavar="WORKSPACE", nargs="?", default="workspace", help="folder (default: %(default)s)"
    )


def _list(arguments: argparse.Namespace) -> int:
    from tag2mask.runs.listing import list_workspace

    listing = list_workspace(arguments.workspace)
    print(json.dumps(listing.to_dict(), indent=2, ensure_ascii=False) if arguments.json else listing.table())
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from tag2mask.runs.pruning import prune_workspace

    pruned = prune_workspace(
        arguments.workspace, runs=arguments.run, unfinished=arguments.unfinished, dry_run=not arguments.yes
    )
    print(pruned.text())
    return 0
