"""Settings as YAML files: presets by name, files that extend others, and what a run takes where nothing is named."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from tag2mask.engine.environment import Runtime
from tag2mask.errors import SettingsError, unknown_choice
from tag2mask.methods.registry import DEFAULT_METHOD, METHODS, Method

PRESETS = Path(__file__).parents[1] / "presets"

EXTENDS = "extends"
"""Key of a file of settings: the file or preset whose settings come first."""

WITHOUT = "without"
"""Key beside it: groups or dotted keys of these settings that are left out."""


def preset_names() -> list[str]:
    """The presets there are, such as ``small/cam``."""
    return sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml"))


def preset_path(name: str, folder: Path = Path(), *, named_by: str = "--config") -> Path:
    """The file of a path or of a preset's name; a file comes before a preset.

    Args:
        name: ``my.yaml``, ``small/cam``.
        folder: where relative paths start.
        named_by: who names it, for the error.

    Raises:
        SettingsError: neither a file nor a preset, with the presets there are.
    """
    path = folder / name
    if path.is_file():
        return path
    preset = PRESETS / (name.removesuffix(".yaml") + ".yaml").removeprefix("presets/")
    if preset.is_file():
        return preset
    what = "a folder, not a file" if path.is_dir() else "no such file"
    raise SettingsError(f"{named_by} {name}: {what}, and no such preset; presets: {', '.join(preset_names())}")


def resolve(path: Path, known: Iterable[str], others: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of a file together with those that it extends.

    The extended file's come first, and the file's own are merged into them, mapping by mapping; lists and single values
    replace. What is inherited and no setting of the method is left out as long as it is one of another method's.
    Any other unknown key stays, for the parser to tell of, and so do all of the file's own.

    Args:
        path: the file.
        known: dotted names of the settings that the method and its run have.
        others: those that other methods have.

    Returns:
        the settings as nested mappings, without `EXTENDS` and `WITHOUT`.

    Raises:
        SettingsError: a file cannot be read, there is no such preset, files extend each other in a circle, or
            `WITHOUT` names what is not there.
    """
    settings: dict[str, Any] = {}
    lineage = _lineage(path)
    for place, (file, content) in reversed(list(enumerate(lineage))):
        settings = _left_out(settings, content.get(WITHOUT, []), file)
        if place == 0:
            settings = _fitting(settings, _with_groups(known), _with_groups(others))
        settings = _merged(settings, {key: value for key, value in content.items() if key not in (EXTENDS, WITHOUT)})
    return settings


def resolved_file(path: Path, known: Iterable[str], others: Iterable[str], target: Path) -> Path:
    """A file for a parser that knows nothing of `EXTENDS`.

    Args:
        path: the file of settings.
        known: see `resolve`.
        others: see `resolve`.
        target: the file that is written if one is needed.

    Returns:
        the same file if it extends nothing, or `target` with what `resolve` gives.

    Raises:
        SettingsError: see `resolve`.
    """
    if len(_lineage(path)) == 1:
        return path
    # Quoted throughout, with a tag where it is no text: read again, every value has the type it had.
    text = yaml.safe_dump(resolve(path, known, others), default_style='"', allow_unicode=True)
    target.write_text(text, encoding="utf-8")
    return target


def _lineage(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A file and its content, then those of the file that it extends, and so on.

    Raises:
        SettingsError: one cannot be read or found, or they make a circle.
    """
    lineage: list[tuple[Path, dict[str, Any]]] = []
    following: Path | None = path
    while following is not None:
        if any(file.resolve() == following.resolve() for file, _ in lineage):
            circle = " -> ".join(str(file) for file in [*(file for file, _ in lineage), following])
            raise SettingsError(f"{path}: {EXTENDS}: files that extend each other in a circle: {circle}")
        content = _read(following)
        lineage.append((following, content))
        following = _extended(following, content)
    return lineage


def _read(path: Path) -> dict[str, Any]:
    """A file's content; errors name the file, which the parser of settings does not."""
    try:
        # The loader of the parser of settings: YAML's own takes 1e-7 for text.
        content = get_loader("yaml")(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: no settings; lines like 'seed: 1' are expected")
    return content


def _extended(path: Path, content: Mapping[str, Any]) -> Path | None:
    """The file that a file extends."""
    if EXTENDS not in content:
        if WITHOUT in content:
            raise SettingsError(f"{path}: {WITHOUT}: leaves out what the file extends, and there is no '{EXTENDS}'")
        return None
    name = content[EXTENDS]
    if not isinstance(name, str):
        presets = ", ".join(preset_names())
        raise SettingsError(f"{path}: {EXTENDS}: '{name}' is not the name of one preset or file; presets: {presets}")
    return preset_path(name, path.parent, named_by=f"{path}: {EXTENDS}")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; the second wins. Keys with dots, which a parser takes too, become mappings."""
    merged = dict(below)
    for key, given in above.items():
        name, _, rest = str(key).partition(".")
        value = {rest: given} if rest else given
        if isinstance(value, Mapping):
            inner = merged.get(name)
            value = _merged(inner if isinstance(inner, Mapping) else {}, value)
        merged[name] = value
    return merged


def _left_out(settings: dict[str, Any], names: object, file: Path) -> dict[str, Any]:
    """Settings without those of some dotted names.

    Args:
        settings: what a file inherits.
        names: what the file has under `WITHOUT`.
        file: it, for the error.

    Raises:
        SettingsError: `names` is no list of names, or one is not there.
    """
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise SettingsError(f"{file}: {WITHOUT}: '{names}' is no list of settings such as [seeds, segmenter.loss]")
    for name in names:
        settings = _merged({}, settings)
        group: Any = settings
        *groups, last = name.split(".")
        for part in groups:
            group = group.get(part, {}) if isinstance(group, dict) else {}
        if not isinstance(group, dict) or last not in group:
            there = ", ".join(group) if isinstance(group, dict) and group else ", ".join(settings)
            raise SettingsError(f"{file}: {WITHOUT}: '{name}' is not in what the file extends; choices: {there}")
        del group[last]
    return settings


def _with_groups(names: Iterable[str]) -> set[str]:
    """Dotted names of settings and those of the groups that they are in, which end in a dot."""
    found = set()
    for name in names:
        found |= {name, *(name[: place + 1] for place, letter in enumerate(name) if letter == ".")}
    return found


def _fitting(
    inherited: Mapping[str, Any], known: Collection[str], others: Collection[str], prefix: str = ""
) -> dict[str, Any]:
    """Inherited settings without those that other methods have and this one has not.

    Args:
        inherited: nested mappings.
        known: of the method, from `_with_groups`.
        others: of the other methods, likewise.
        prefix: of the names in `inherited`, empty or ending in a dot.
    """
    kept = {}
    for key, value in inherited.items():
        group = isinstance(value, Mapping)
        name = f"{prefix}{key}." if group else f"{prefix}{key}"
        if name not in known:
            # One that nobody has is misspelt; the parser will say so.
            if name not in others:
                kept[key] = value
        elif not group:
            kept[key] = value
        elif inner := _fitting(value, known, others, name):
            kept[key] = inner
    return kept


def option_values(arguments: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Takes an option out of a command line's words, whether written ``--config X`` or ``--config=X``.

    Returns:
        its values, and the other words.
    """
    values, others = [], []
    words = iter(arguments)
    for word in words:
        if word == option:
            values.append(next(words, ""))
        elif word.startswith(f"{option}="):
            values.append(word.removeprefix(f"{option}="))
        else:
            others.append(word)
    return values, others


@dataclass(frozen=True)
class Choice:
    """Method and preset of a run, as chosen.

    Args:
        method: the method.
        arguments: words of the command line after it, the preset among them where one was chosen.
        note: one line on what was chosen and why; empty where the method was named.
    """

    method: Method
    arguments: tuple[str, ...]
    note: str = ""


def choose(name: str | None, arguments: Sequence[str]) -> Choice:
    """Method and preset of a run.

    With a name it is that method, and the arguments stay as they are. Without one it is the method of the preset that
    ``--config`` names or whose settings the file there extends, else the default method; without ``--config`` it is the
    default method's preset for this machine.

    Args:
        name: of the method, if one was named.
        arguments: all other words of the command line.

    Raises:
        SettingsError: there is no such method, preset or file, with the choices.
    """
    configs, _ = option_values(arguments, "--config")
    if name is not None:
        return Choice(_named_method(name, arguments), tuple(arguments))
    default = METHODS[DEFAULT_METHOD]
    if not configs:
        preset, why = _machine_preset(default.name, arguments)
        note = f"method {default.name} (the default), preset {preset} ({why})"
        return Choice(default, ("--config", preset, *arguments), note)
    # Of several the last one decides, as it does over settings.
    for config in reversed(configs):
        for place, (file, _) in enumerate(_lineage(preset_path(config))):
            if file.stem in METHODS and file.resolve().is_relative_to(PRESETS.resolve()):
                why = f"{config} extends" if place else "of the"
                note = f"method {file.stem} ({why} preset {_preset_name(file)})"
                return Choice(METHODS[file.stem], tuple(arguments), note)
    note = f"method {default.name} (the default), settings of {', '.join(configs)}"
    return Choice(default, tuple(arguments), note)


def _named_method(name: str, arguments: Sequence[str]) -> Method:
    """The method of a name; `registry.find_method` with a hint for who gives the photographs in its place."""
    if name in METHODS:
        return METHODS[name]
    message = unknown_choice("method", name, METHODS)
    if not option_values(arguments, "--data")[0]:
        message += f"; a folder of photographs is given as data: --data {name}, in Python data='{name}'"
    raise SettingsError(message)


def _machine_preset(method: str, arguments: Sequence[str]) -> tuple[str, str]:
    """A method's preset for the device that a run will take, and why it is that."""
    given = ["auto", *option_values(arguments, "--device")[0]][-1]
    gpu = Runtime(device=given).resolved(device_needed=False).torch_device.type == "cuda"
    if not gpu:
        return f"small/{method}", "no GPU here" if given == "auto" else f"device {given}"
    preset = f"gpu/{method}"
    if (PRESETS / f"{preset}.yaml").is_file():
        return preset, "with a GPU"
    return f"small/{method}", f"with a GPU, but there is no preset {preset}"


def _preset_name(path: Path) -> str:
    return path.resolve().relative_to(PRESETS.resolve()).with_suffix("").as_posix()
