"""`tag2mask workspace`: what runs have left, and freeing it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands


def register(commands: "Commands") -> None:
    """Adds the command."""
