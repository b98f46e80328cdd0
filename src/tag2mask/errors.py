"""Errors that are a user's to solve: one clear line that names the file, the key or the choices."""

from collections.abc import Iterable


class Tag2MaskError(Exception):
    """Base of every error whose message is written for the user.

    The command line prints the message as one line and exits with status 2; `--debug` shows the trace.
    """


class DataError(Tag2MaskError):
    """A data set, image, mask, tag table or list cannot be used as it is."""


class SettingsError(Tag2MaskError):
    """A setting has an impossible value or names something that does not exist."""


class WeightsError(Tag2MaskError):
    """Pretrained weights or a model file cannot be had or do not fit."""


class WorkspaceError(Tag2MaskError):
    """A workspace is locked, not writable or damaged."""


def full_memory(error: BaseException) -> str:
    """Advice on an error that says that a memory is full; empty if it says something else."""
    # torch is not imported for its error's sake: `--help` would wait for it.
    if type(error).__name__ == "OutOfMemoryError":
        return "the device's memory is full; a smaller batch_size or crop needs less"
    # torch tells of a full memory by a RuntimeError of its allocator.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the memory is full; fewer threads, a smaller batch_size or smaller photographs need less"
    return ""


def unknown_choice(what: str, given: object, choices: Iterable[str]) -> str:
    """Message for a name that is not among its choices.

    Args:
        what: what was being named, for example ``"backbone"``.
        given: the name that was given.
        choices: the names that exist.
    """
    return f"unknown {what} '{given}'; choices: {', '.join(choices)}"
