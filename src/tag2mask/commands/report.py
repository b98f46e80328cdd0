"""`tag2mask report`: a run's page, made again."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands


def register(commands: "Commands") -> None:
    """Adds the command."""
