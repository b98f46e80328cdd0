"""Lists of methods in README, the documentation and its navigation are the registry's.

To write them anew after a change of the registry:

    python -m tests.test_method_lists
"""

import re
from pathlib import Path

import pytest

from tag2mask.methods.registry import METHODS, methods_table
from tests.conftest import ROOT

PAGES = {ROOT / "README.md": "docs/methods", ROOT / "docs" / "index.md": "methods"}
_BETWEEN = re.compile(r"(<!-- methods -->\n).*?(<!-- /methods -->)", re.DOTALL)


def with_methods(text: str, pages: str) -> str:
    """A page with the table of methods between its two marks."""
    table = methods_table(pages).replace("\\", r"\\")
    return _BETWEEN.sub(rf"\g<1>\n{table}\n\n\g<2>", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_have_the_methods_there_are(page: Path) -> None:
    text = page.read_text()
    assert len(_BETWEEN.findall(text)) == 1
    assert text == with_methods(text, PAGES[page])


def test_the_navigation_has_them_in_the_same_order() -> None:
    names = re.findall(r"^ +- (\w+): methods/\1\.md$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert names == list(METHODS)


def test_every_method_says_whether_it_sees_masks() -> None:
    for method in METHODS.values():
        assert (method.sees_masks == "yes") is not method.tags_only


if __name__ == "__main__":
    for path, folder in PAGES.items():
        path.write_text(with_methods(path.read_text(), folder))
