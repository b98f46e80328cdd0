"""From presets and overrides to settings, the same for the command line and for Python."""

import dataclasses
import difflib
import json
import re
import tempfile
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from tag2mask.base.settings import canonical
from tag2mask.data.datasets import Layout, open_dataset
from tag2mask.data.hold_out import DEFAULT_HOLD_OUT, TOO_FEW, hold_out
from tag2mask.data.samples import Dataset
from tag2mask.engine.environment import Runtime
from tag2mask.errors import DataError, SettingsError, unknown_choice
from tag2mask.methods.registry import METHODS, Method
from tag2mask.runs.presets import PRESETS as PRESETS
from tag2mask.runs.presets import option_values, preset_path, resolved_file


@dataclass(frozen=True)
class RunSettings:
    """Data set, workspace and what is shown, whatever the method.

    Args:
        data: folder of tagged photographs: with a CSV of image_path,label, in PASCAL VOC's or COCO's layout, or with
            one folder per class.
        workspace: folder that keeps what runs make; stages in it are shared between runs.
        layout: of the data: "auto" finds out, "voc", "csv", "folders" or "coco".
        train_list: VOC's and COCO's layout: name of the list to train on, or a path to a list.
        val_list: VOC's and COCO's layout: name of the list to measure on, or a path to a list.
        labels_csv: CSV of tags, if it is not the only one in the folder.
        val_csv: CSV of the photographs to measure on.
        labels_npy: VOC's layout: a ``cls_labels.npy`` of tags; needs `allow_pickle`.
        allow_pickle: read `labels_npy`, which is a pickle and can run any code of whoever made it.
        hold_out: without a val list this share of the photographs is set aside, to measure the classifier on.
        bound: train the same segmenter on the true masks too, as the upper bound to compare with (needs masks).
        all_masks: make masks of the training photographs too; always so where photographs were held out.
        pictures: photographs shown on each sheet of pictures; 0 for none.
        gallery: photographs in the report's gallery, evenly spread over the lists; 0 for none.
    """

    data: str
    workspace: str = "workspace"
    layout: Layout = "auto"
    train_list: str = "train"
    val_list: str = "val"
    labels_csv: str | None = None
    val_csv: str | None = None
    labels_npy: str | None = None
    allow_pickle: bool = False
    hold_out: float = DEFAULT_HOLD_OUT
    bound: bool = False
    all_masks: bool = False
    pictures: int = 24
    gallery: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out < 1:
            raise SettingsError(f"hold_out: {self.hold_out} must lie in [0, 1)")
        for name in ("pictures", "gallery"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name}: {getattr(self, name)} must not be negative")

    def dataset(self, seed: int) -> tuple[Dataset, bool]:
        """The data set, and whether its val images were held out here.

        Raises:
            DataError: there is none, or it cannot be used.
        """
        dataset = open_dataset(
            self.data,
            layout=self.layout,
            train_list=self.train_list,
            val_list=self.val_list,
            labels_csv=self.labels_csv,
            val_csv=self.val_csv,
            labels_npy=self.labels_npy,
            allow_pickle=self.allow_pickle,
        )
        if dataset.val is not None:
            return dataset, False
        if not self.hold_out:
            raise DataError(f"{self.data}: no val list, and hold_out is 0: nothing to measure on")
        held = hold_out(dataset, self.hold_out, seed)
        if held.val is None:
            raise DataError(f"{self.data}: {TOO_FEW}")
        return held, True


@dataclass(frozen=True)
class Configuration:
    """Settings of one run: of the method, of the run, of the machine."""

    method: Method
    settings: Any
    run: RunSettings
    runtime: Runtime


def method_parser(method: Method) -> ArgumentParser:
    """The parser of a method's settings, run settings and machine settings."""
    parser = ArgumentParser(
        description=f"{method.title} ({method.source}).",
        epilog="--dry_run shows the stages, what is cached, and an estimate of minutes and disk; it writes nothing.",
        exit_on_error=False,
        allow_abbrev=False,
        prog=f"tag2mask run {method.name}",
    )
    parser.usage = f"tag2mask run {method.name} --data FOLDER [--config PRESET] [--dry_run] [--SETTING VALUE ...]"
    parser.add_argument("--config", action="config", help="YAML of settings: a path, or a preset such as small/cam")
    parser.add_class_arguments(RunSettings)
    parser.add_class_arguments(Runtime)
    parser.add_class_arguments(method.settings)
    return parser


def parse_arguments(method: Method, arguments: Sequence[str]) -> Configuration:
    """Settings from command-line arguments.

    Raises:
        SettingsError: an unknown key, an impossible value, or a file that cannot be read or resolved.
    """
    parser = method_parser(method)
    configs, others = option_values(arguments, "--config")
    known = setting_names(method)
    of_others = {name for other in METHODS.values() for name in setting_names(other)}
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, config in enumerate(configs):
            file = resolved_file(preset_path(config), known, of_others, Path(folder, f"{number}.yaml"))
            files.append(f"--config={file}")
        try:
            # jsonargparse lets the later one win, and a file must never undo what stands beside it on the command line.
            built = parser.instantiate(parser.parse_args([*files, *others]))
        except SettingsError:
            raise
        except (ArgumentError, TypeError, ValueError, OSError) as error:
            raise SettingsError(_explained(str(error), method)) from error

    def part(kind: type[Any]) -> Any:
        return kind(**{field.name: built[field.name] for field in dataclasses.fields(kind)})

    return Configuration(method, part(method.settings), part(RunSettings), part(Runtime))


def as_arguments(overrides: Mapping[str, Any]) -> list[str]:
    """Settings by dotted key as command-line arguments, for `parse_arguments`.

    Python names may use two underscores for a dot: ``classifier__training__epochs=3``.
    """
    arguments = []
    for key, value in overrides.items():
        text = str(value) if isinstance(value, str | Path) else json.dumps(canonical(value))
        arguments.append(f"--{key.replace('__', '.')}={text}")
    return arguments


def _explained(message: str, method: Method) -> str:
    """A parser's message in one line; where it is about an unknown key, with the keys that come close."""
    line = " ".join(message.split())
    word = re.search(r"[Uu]nrecognized arguments: ([^-\s]\S*)", line)
    if word:
        hint = "a list is written '[1, 2]', and a method stands right after 'run'"
        return f"'{word[1]}' is neither an option nor the value of one; {hint}: {', '.join(METHODS)}"
    choice = re.fullmatch(r'Parser key "([\w.]+)": Expected a typing\.Literal\[(.*)\]\. Got value: (.*)', line)
    if choice:
        return unknown_choice(choice[1], choice[3], re.findall(r"'([^']*)'", choice[2]))
    unknown = re.search(
        r"(?:[Uu]nrecognized arguments: --|Key '|unexpected key '|Option '|not accept option ')([\w.]+)", line
    )
    if unknown:
        known = setting_names(method)
        name = unknown.group(1)
        group = name.rpartition(".")[0]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        if group:
            # A group's other settings say more than nothing where a name is wrong altogether.
            near += [key for key in known if key.rpartition(".")[0] == group and key not in near][: 3 - len(near)]
        else:
            near = near or [key for key in known if "." not in key]
        if not near:
            return f"'{name}' is no setting of the method {method.name}, which has {', '.join(_parts(method))}"
        return f"unknown setting '{name}'; choices near it: {', '.join(near)}"
    return line


def setting_names(method: Method) -> list[str]:
    """Dotted keys of all settings that a run of a method has."""
    return [name for kind in (method.settings, RunSettings, Runtime) for name in _setting_names(kind)]


def _setting_names(settings: type[Any], prefix: str = "") -> list[str]:
    """Dotted keys of a settings class and of those it is made of."""
    names = []
    for field in dataclasses.fields(settings):
        nested = field.default_factory
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            names += _setting_names(nested, f"{prefix}{field.name}.")
        elif callable(nested) and dataclasses.is_dataclass(made := nested()):
            names += _setting_names(type(made), f"{prefix}{field.name}.")
        else:
            names.append(prefix + field.name)
    return names


def _parts(method: Method) -> list[str]:
    """The stages a method has settings for."""
    return [field.name for field in dataclasses.fields(method.settings)]
