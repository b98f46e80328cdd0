import sys
from types import ModuleType

import pytest

from tag2mask.base.versions import Code, code_below


def module(monkeypatch: pytest.MonkeyPatch, name: str, code: Code | None = None, **names: object) -> ModuleType:
    made = ModuleType(f"tag2mask.{name}")
    if code is not None:
        vars(made)["CODE"] = code
    vars(made).update(names)
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def function_of(home: ModuleType) -> object:
    def function() -> None: ...

    function.__module__ = home.__name__
    return function


def test_code_is_found_through_what_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = module(monkeypatch, "made_up.kernel", Code("kernel", 3))
    between = module(monkeypatch, "made_up.between", None, solve=function_of(kernel))
    module(monkeypatch, "made_up.apart", Code("apart"))
    top = module(monkeypatch, "made_up.top", Code("top"), between=between, number=3)
    assert code_below([top.__name__], frozenset()) == [Code("kernel", 3), Code("top")]


def test_the_imports_of_an_end_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = module(monkeypatch, "made_up.kernel", Code("kernel"))
    stage = module(monkeypatch, "made_up.stage", Code("stage"), solve=function_of(kernel))
    top = module(monkeypatch, "made_up.top", None, stage=function_of(stage))
    ends = frozenset({stage.__name__})
    assert code_below([top.__name__], ends) == [Code("stage")]
    assert code_below([stage.__name__], ends) == [Code("kernel"), Code("stage")]


def test_modules_may_import_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = module(monkeypatch, "made_up.one", Code("one")), module(monkeypatch, "made_up.other", Code("other"))
    vars(one)["f"], vars(other)["f"] = function_of(other), function_of(one)
    assert [code.name for code in code_below([one.__name__], frozenset())] == ["one", "other"]
