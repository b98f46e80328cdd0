"""Imports point one way: what each room of the package may import, and nothing else.

A room is a folder or a module right below the package. All imports count, those within functions and for type checkers
alone too.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "src" / "tag2mask"

# From the bottom to the top. Every room may import what is said here and no room beside it.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "base": {"errors"},
    "data": {"base", "errors"},
    # What is computed of one photograph or batch, without a thought of stages and files.
    "networks": {"data", "base", "errors"},
    "refine": {"networks", "data", "base", "errors"},
    "evidence": {"refine", "data", "base", "errors"},
    "losses": {"evidence", "refine", "data", "base", "errors"},
    # How anything is run and measured.
    "engine": {"data", "base", "errors"},
    "evaluation": {"data", "base", "errors"},
    # The two meet.
    "supervision": {"losses", "evidence", "refine", "networks", "engine", "data", "base", "errors"},
    "stages": {
        *("supervision", "losses", "evidence", "refine", "networks"),
        *("evaluation", "engine", "data", "base", "errors"),
    },
    "methods": {"stages", "supervision", "engine", "base", "errors"},
    "study": {"stages", "evidence", "networks", "evaluation", "engine", "data", "base", "errors"},
    "runs": {"methods", "stages", "networks", "evaluation", "engine", "data", "base", "errors"},
    # What people call.
    "api": {
        *("runs", "study", "methods", "stages", "evidence", "networks"),
        *("evaluation", "engine", "data", "base", "errors"),
    },
    "commands": {"api", "runs", "study", "engine", "data", "base", "errors"},
    "ssdd": {"refine", "networks"},
    "kernels": {"evidence", "refine", "evaluation"},
    "__init__": {"api", "runs", "kernels", "ssdd", "losses", "refine", "data", "errors"},
    "cli": {"__init__", "commands", "api", "runs", "methods", "engine", "data", "base", "errors"},
}

# Folders of one system each within `stages`; what several systems need lies beside them.
SYSTEMS = sorted(path.parent.name for path in PACKAGE.glob("stages/*/__init__.py"))


class Import(NamedTuple):
    """An import of a module of the package.

    Attributes:
        importer: parts of the name of the module that imports, without the package.
        imported: likewise; ``("__init__",)`` is the package itself.
        where: file and line.
    """

    importer: tuple[str, ...]
    imported: tuple[str, ...]
    where: str


def imports_of(path: Path, text: str) -> Iterator[Import]:
    """Imports in a module's text, as far as they are of the package."""
    importer = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for package, *parts in (name.split(".") for name in names):
            if package == PACKAGE.name:
                yield Import(importer, _module(parts), f"{path.relative_to(ROOT)}:{node.lineno}")


def _module(parts: list[str]) -> tuple[str, ...]:
    """The module that a dotted name lies in: the longest beginning of it that is a folder or a file."""
    for length in range(len(parts), 0, -1):
        place = PACKAGE.joinpath(*parts[:length])
        if place.is_dir() or any(place.parent.glob(f"{place.name}.*")):
            return tuple(parts[:length])
    return ("__init__",)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    paths = [path for kind in ("*.py", "*.pyi") for path in sorted(PACKAGE.rglob(kind))]
    return [found for path in paths for found in imports_of(path, path.read_text(encoding="utf-8"))]


def test_every_room_is_in_the_table() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert modules | folders == set(ROOMS)


def test_the_table_points_one_way() -> None:
    order = [*TopologicalSorter(ROOMS).static_order()]  # raises CycleError where there is a cycle
    assert set(order) == set(ROOMS)
    rooms = [*ROOMS]
    for room, below in ROOMS.items():
        assert below <= set(rooms[: rooms.index(room)]), f"{room} stands below what it imports"


def test_rooms_import_what_the_table_says(imports: list[Import]) -> None:
    wrong = [
        f"{found.where}: {'.'.join(found.imported)}"
        for found in imports
        if found.imported[0] not in {found.importer[0], *ROOMS[found.importer[0]]}
    ]
    assert wrong == []
    assert len(imports) > 500


def test_no_method_imports_another(imports: list[Import]) -> None:
    """The registry knows the methods, and they know nothing of it or of each other."""
    wrong = [
        found.where
        for found in imports
        if found.importer[0] == found.imported[0] == "methods" and found.importer[1] != "registry"
    ]
    assert wrong == []


def test_what_systems_share_imports_no_systems_stages(imports: list[Import]) -> None:
    """Nor does one system import another's; each stands by itself."""
    assert len(SYSTEMS) > 5
    wrong = [
        f"{found.where}: {'.'.join(found.imported)}"
        for found in imports
        if found.importer[0] == found.imported[0] == "stages"
        and (set(SYSTEMS) - {found.importer[1]}).intersection(found.imported[1:2])
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "imported"),
    [
        ("import tag2mask", ("__init__",)),
        ("from tag2mask import __version__", ("__init__",)),
        ("from tag2mask import ssdd", ("ssdd",)),
        ("from tag2mask.refine import _random_walk", ("refine", "_random_walk")),
        ("from tag2mask.engine.stage import Stage", ("engine", "stage")),
        ("def late():\n    import tag2mask.engine.stage", ("engine", "stage")),
        (
            "if TYPE_CHECKING:\n    from tag2mask.stages.patterns import pattern_maps",
            ("stages", "patterns", "pattern_maps"),
        ),
    ],
)
def test_imports_are_found_wherever_they_are(text: str, imported: tuple[str, ...]) -> None:
    assert [found.imported for found in imports_of(PACKAGE / "cli.py", text)] == [imported]
