"""Versions of code that several stages are built on."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Code:
    """Code whose results are part of what stages make. A module has one, as ``CODE``.

    Args:
        name: what it does, in a few words; no two have the same.
        version: raised whenever it comes to other results: every stage built on it is then made again.
    """

    name: str
    version: int = 1


def code_below(modules: Iterable[str], ends: frozenset[str]) -> list[Code]:
    """The codes of modules and of all that they import functions and classes from, each once, by name.

    Args:
        modules: names of modules that are loaded.
        ends: names of modules whose own imports do not count, unless they are among `modules`.
    """
    return sorted({code for name in _reached(modules, ends) for code in _codes(name)}, key=lambda code: code.name)


def _codes(name: str) -> Iterator[Code]:
    code = getattr(sys.modules.get(name), "CODE", None)
    if isinstance(code, Code):
        yield code


def _reached(modules: Iterable[str], ends: frozenset[str]) -> set[str]:
    start = set(modules)
    found, waiting = set(start), list(start)
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        if module is None or (name in ends and name not in start):
            continue
        for home in _imported(module):
            if home not in found:
                found.add(home)
                waiting.append(home)
    return found


def _imported(module: ModuleType) -> Iterator[str]:
    """The package's modules that a module's names come from."""
    for value in list(vars(module).values()):
        home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(home, str) and home.partition(".")[0] == _PACKAGE and home != module.__name__:
            yield home
