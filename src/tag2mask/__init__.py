"""tag2mask: from image tags to pixel masks.

The verbs are the names in ``__all__``: `run`, `predict`, `evaluate`, `report` and `demo` first among them, `load_model`
and `cams` for notebooks. `kernels`, `losses` and `ssdd` are modules of functions that are useful on their own.
"""

import importlib
import importlib.metadata
import os
from typing import TYPE_CHECKING, Any

# Idle OpenMP threads that spin take the time of those that work; this has to be said before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = importlib.metadata.version("tag2mask")

_HOMES = {
    "run": "tag2mask.api.run",
    "predict": "tag2mask.api.predict",
    "evaluate": "tag2mask.api.evaluate",
    "demo": "tag2mask.api.demo",
    "report": "tag2mask.api.report",
    "load_model": "tag2mask.api.model",
    "cams": "tag2mask.api.cams",
    "list_methods": "tag2mask.api.lists",
    "list_backbones": "tag2mask.api.lists",
    "list_workspace": "tag2mask.runs.listing",
    "prune_workspace": "tag2mask.runs.pruning",
    "check_data": "tag2mask.data.check",
    "convert_data": "tag2mask.data.convert",
    "superpixels": "tag2mask.api.superpixels",
    "study_dcp": "tag2mask.api.study_dcp",
    "study_superpixels": "tag2mask.api.study_superpixels",
    "dense_crf": "tag2mask.refine.dense_crf",
    "Tag2MaskError": "tag2mask.errors",
}

_MODULES = ("kernels", "losses", "ssdd")

__all__ = [*_HOMES, *_MODULES, "__version__"]

if TYPE_CHECKING:
    from tag2mask import kernels as kernels
    from tag2mask import losses as losses
    from tag2mask import ssdd as ssdd
    from tag2mask.api.cams import cams as cams
    from tag2mask.api.demo import demo as demo
    from tag2mask.api.evaluate import evaluate as evaluate
    from tag2mask.api.lists import list_backbones as list_backbones
    from tag2mask.api.lists import list_methods as list_methods
    from tag2mask.api.model import load_model as load_model
    from tag2mask.api.predict import predict as predict
    from tag2mask.api.report import report as report
    from tag2mask.api.run import run as run
    from tag2mask.api.study_dcp import study_dcp as study_dcp
    from tag2mask.api.study_superpixels import study_superpixels as study_superpixels
    from tag2mask.api.superpixels import superpixels as superpixels
    from tag2mask.data.check import check_data as check_data
    from tag2mask.data.convert import convert_data as convert_data
    from tag2mask.errors import Tag2MaskError as Tag2MaskError
    from tag2mask.refine.dense_crf import dense_crf as dense_crf
    from tag2mask.runs.listing import list_workspace as list_workspace
    from tag2mask.runs.pruning import prune_workspace as prune_workspace


def __getattr__(name: str) -> Any:
    # Loading torch takes seconds, which `tag2mask --help` should not.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"tag2mask.{name}")
    raise AttributeError(f"module 'tag2mask' has no attribute '{name}'")


def __dir__() -> list[str]:
    # What completion in a notebook shows: the verbs, before any of them is loaded, and none of this module's imports.
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
