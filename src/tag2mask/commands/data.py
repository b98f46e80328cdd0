"""`tag2mask data`: looking at a data set and changing its layout."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands


def register(commands: "Commands") -> None:
    """Adds the command."""
