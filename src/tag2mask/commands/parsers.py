"""Parts that all commands' parsers share."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

Handler = Callable[[argparse.Namespace], int]
TRUTH = {"true": True, "false": False}
"""Values of the words of a flag that can be given alone or with its value, as a run's settings are."""


def add_command(
    commands: "Commands", name: str, handler: Handler, text: str, description: str = ""
) -> argparse.ArgumentParser:
    """Adds a command and returns its parser, for its arguments.

    Args:
        commands: where it is added.
        name: as typed.
        handler: function of the arguments that returns the exit status.
        text: one line for `--help` of the whole.
        description: for the command's own `--help`; `text` by default.
    """
    parser = commands.add_parser(
        name, help=text, description=description or text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(handler=handler)
    parser.add_argument("--debug", action="store_true", help="show the trace of an error")
    return parser


def add_group(commands: "Commands", name: str, text: str) -> "Commands":
    """Adds a command that has commands of its own (`data check`), and returns where these are added."""
    parser = commands.add_parser(name, help=text, description=text)
    return parser.add_subparsers(metavar="COMMAND", required=True)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the machine that computes; `machine_of` reads them."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--precision", default="32-true", help="32-true or bf16-mixed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all processors (default: %(default)s)")


def machine_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Values of the options of `add_machine`, as settings of a `Runtime`."""
    return {name: getattr(arguments, name) for name in ("device", "precision", "threads")}


def add_allow_pickle(parser: argparse.ArgumentParser, file: str) -> None:
    """Adds ``--allow_pickle``, alone or with a word of `TRUTH`.

    Args:
        parser: of the command.
        file: what it allows to read, for its help.
    """
    parser.add_argument(
        "--allow_pickle",
        nargs="?",
        const="true",
        default="false",
        choices=TRUTH,
        help=f"read {file}, which is a pickle and can run any code of whoever made it",
    )
