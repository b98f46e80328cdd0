"""What `import tag2mask` offers: the verbs and the modules that are useful on their own."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

import tag2mask

COMPUTING = ["predict", "superpixels", "study_superpixels", "load_model", "cams"]
"""Verbs whose machine is given by keywords; `run`, `demo` and `study_dcp` take it as settings."""


def test_completion_shows_the_verbs_before_anything_is_loaded() -> None:
    code = "import sys, tag2mask; print(' '.join(dir(tag2mask))); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    shown = [name for name in out[0].split() if not name.startswith("_")]
    assert shown == sorted(name for name in tag2mask.__all__ if not name.startswith("_"))
    assert out[1] == "False"


@pytest.mark.parametrize("name", [name for name in tag2mask.__all__ if name != "__version__"])
def test_everything_offered_is_there_and_documented(name: str) -> None:
    assert inspect.getdoc(getattr(tag2mask, name))


@pytest.mark.parametrize("name", ["kernels", "losses", "ssdd"])
def test_modules_say_what_is_in_them(name: str) -> None:
    module = importlib.import_module(f"tag2mask.{name}")
    assert module is getattr(tag2mask, name)
    assert len(set(module.__all__)) == len(module.__all__) > 5
    for item in module.__all__:
        assert inspect.getdoc(getattr(module, item)), item


def test_every_loss_is_offered() -> None:
    for info in pkgutil.iter_modules(tag2mask.losses.__path__, "tag2mask.losses."):
        home = importlib.import_module(info.name)
        functions = {
            name for name, value in inspect.getmembers(home, inspect.isfunction) if value.__module__ == info.name
        }
        public = {name for name in functions if not name.startswith(("_", "check_"))}
        assert public
        assert public <= set(tag2mask.losses.__all__), info.name


@pytest.mark.parametrize("name", COMPUTING)
def test_verbs_that_compute_take_the_machine(name: str) -> None:
    parameters: dict[str, Any] = dict(inspect.signature(getattr(tag2mask, name)).parameters)
    assert {key: parameters[key].default for key in ("device", "precision", "threads")} == {
        "device": "auto",
        "precision": "32-true",
        "threads": 0,
    }
