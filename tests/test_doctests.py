"""The examples of docstrings do what they say."""

import doctest
import importlib
import pkgutil

import pytest

import tag2mask

MODULES = [
    info.name
    for info in pkgutil.walk_packages(tag2mask.__path__, "tag2mask.")
    if not info.name.rpartition(".")[2].startswith("_")
]


def examples(module: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module), module)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", [name for name in MODULES if examples(name)])
def test_examples_run(module: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in examples(module):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_there_are_examples_that_need_no_data() -> None:
    runnable = [
        example
        for module in MODULES
        for test in examples(module)
        for example in test.examples
        if not example.options.get(doctest.SKIP)
    ]
    assert len(runnable) >= 15
