import base64
import hashlib
import json
import math
import re
import weakref
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tag2mask.evaluation.report.content import Card, ClassScores, Curve, Layer, ReportContent, Training
from tag2mask.evaluation.report.page import write_page

ODD = "a \"b\" 'c' </script><script>alert(1)</script><b>&amp; ü 照片 \u2028"


class Page(HTMLParser):
    """A page taken apart: elements with their attributes, and the text of every element by its tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open][-1] += data

    @property
    def ids(self) -> set[str]:
        return {value for _, attributes in self.elements if (value := attributes.get("id"))}

    @property
    def data(self) -> Any:
        return json.loads(self._scripts()[0])

    @property
    def cards(self) -> list[tuple[Any, list[str]]]:
        scripts = self._scripts()[1:]
        return [(json.loads(facts), json.loads(urls)) for facts, urls in zip(scripts[::2], scripts[1::2], strict=True)]

    def _scripts(self) -> list[str]:
        *data, program = self.texts["script"]
        assert '"use strict"' in program
        return data


@pytest.fixture
def write(tmp_path: Path) -> Callable[[ReportContent], Page]:
    def write(content: ReportContent) -> Page:
        write_page(tmp_path / "report.html", content)
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write


def test_shows_what_it_is_given(
    write: Callable[[ReportContent], Page], make_content: Callable[..., ReportContent]
) -> None:
    page = write(make_content())
    assert page.texts["title"] == ["cam-0123"]
    assert {"gallery", "metrics", "confusion", "training", "figures", "stages", "settings"} <= page.ids
    assert page.texts["pre"] == ["classifier:\n  epochs: 5\n"]
    assert {"3 min 20 s", "12 s", "3 min 32 s", "by an earlier run", "by this run"} <= set(page.texts["td"])
    assert "Chosen on the truth: reported, not used." in page.texts["li"]
    assert page.texts["dd"] == ["cam", "/data/shapes"]
    figure = next(attributes for tag, attributes in page.elements if tag == "img")
    assert figure["alt"] == "Thresholds"
    assert (figure["src"] or "").startswith("data:image/png;base64,")


def test_cards_hold_their_facts_and_their_layers_apart(
    write: Callable[[ReportContent], Page], make_content: Callable[..., ReportContent]
) -> None:
    content = make_content()
    cards = write(content).cards
    facts, urls = cards[0]
    assert [facts["id"] for facts, _ in cards] == ["a photo", "b photo", "c photo", "d photo"]
    assert facts["size"] == [60, 80]
    assert facts["scores"] == [["val", "val", 0.5]]
    assert facts["layers"] == [["photograph", "photo"], ["CAM", "cover"], ["truth", "cover"]]
    assert isinstance(content.cards, list)
    for url, layer in zip(urls, content.cards[0].layers, strict=True):
        assert url == f"data:{layer.media_type};base64,{base64.b64encode(layer.data).decode()}"


def test_nothing_is_fetched_and_only_its_own_script_and_style_are_let_in(
    write: Callable[[ReportContent], Page], make_content: Callable[..., ReportContent]
) -> None:
    page = write(make_content())
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not {"style", "onclick", "onload", "onerror"} & set(attributes)
    assert "@import" not in page.texts["style"][0]
    assert "url(" not in page.texts["style"][0]
    policy = next(
        attributes["content"] or "" for _, attributes in page.elements if attributes.get("http-equiv") is not None
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for rule, source in (("script-src", page.texts["script"][-1]), ("style-src", page.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_odd_names_stay_text(
    write: Callable[[ReportContent], Page], make_content: Callable[..., ReportContent], make_card: Callable[..., Card]
) -> None:
    def named(name: str) -> ReportContent:
        return make_content(
            title=name,
            facts=[(name, name)],
            notes=[name],
            headlines=[(name, name)],
            classes=[("background", "#000000"), (name, "#c00000")],
            settings=name,
            cards=[make_card(name)],
        )

    plain, page = write(named("plain 1")), write(named(ODD))
    assert page.texts["title"] == [ODD]
    assert page.texts["pre"] == [ODD]
    assert page.texts["dd"] == [ODD]
    assert page.cards[0][0]["id"] == ODD
    assert page.data["classes"][1][0] == ODD
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]


def test_names_that_are_no_valid_unicode(
    write: Callable[[ReportContent], Page], make_content: Callable[..., ReportContent], make_card: Callable[..., Card]
) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    page = write(make_content(title=name, cards=[make_card(name)]))
    assert page.cards[0][0]["id"] == name
    assert page.texts["title"][0].startswith("caf")


def test_undefined_figures_are_null_and_classes_keep_their_order(
    write: Callable[[ReportContent], Page], make_content: Callable[..., ReportContent], make_card: Callable[..., Card]
) -> None:
    values = {"zebra": 0.5, "ant": None, "bee": math.nan}
    page = write(
        make_content(
            scores=[ClassScores("bound_val", "IoU", "", math.nan, values)],
            trainings=[Training("t", [Curve("cross_entropy", [1, 2], [math.inf, 1 / 3])])],
            cards=[make_card("x", scores={"val": math.nan})],
        )
    )
    (scores,) = page.data["scores"]
    assert scores["values"] == [["zebra", 0.5], ["ant", None], ["bee", None]]
    assert scores["mean"] is None
    assert scores["name"] == "bound val"
    assert scores["confusion"] is None
    assert page.data["trainings"][0]["curves"][0]["points"] == [[1, None], [2, 0.333333]]
    assert page.cards[0][0]["scores"] == [["val", "val", None]]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mIoU 57.5, pixel accuracy 80.1", ("mIoU ", "57.5", "pixel accuracy 80.1")),
        ("best mIoU 38.4 at threshold 0.40", ("best mIoU ", "38.4", "at threshold 0.40")),
        ("7 classes", ("", "7", "classes")),
        ("nothing to measure", (None, None, "nothing to measure")),
    ],
)
def test_the_first_figure_of_a_headline_is_set_large(
    tmp_path: Path, make_content: Callable[..., ReportContent], text: str, parts: tuple[str | None, str | None, str]
) -> None:
    write_page(tmp_path / "report.html", make_content(headlines=[("val", text)]))
    html = (tmp_path / "report.html").read_text()
    found = re.search(r'class="figure"><span class="unit">(.*?)</span>(.*?)</span>', html)
    assert (found.groups() if found else (None, None)) == parts[:2]
    assert f'<span class="rest">{parts[2]}</span>' in html


def test_without_truth_no_section_is_empty(
    write: Callable[[ReportContent], Page], make_content: Callable[..., ReportContent]
) -> None:
    page = write(make_content(scores=[], headlines=[], rankings=[], trainings=[], figures=[], stages=[], settings=""))
    assert "gallery" in page.ids
    assert not {"metrics", "confusion", "training", "figures", "stages", "settings"} & page.ids
    assert page.data["rankings"] == []
    links = [attributes.get("href") for tag, attributes in page.elements if tag == "a"]
    assert {link.removeprefix("#") for link in links if link} <= page.ids


def test_no_card_and_eighty_classes(
    write: Callable[[ReportContent], Page], make_content: Callable[..., ReportContent]
) -> None:
    page = write(make_content(cards=[], cards_total=0, classes=[(f"class {k}", "#123456") for k in range(81)]))
    assert page.cards == []
    assert len(page.data["classes"]) == 81


def test_cards_are_written_one_by_one(
    write: Callable[[ReportContent], Page], make_content: Callable[..., ReportContent]
) -> None:
    alive: weakref.WeakSet[Layer] = weakref.WeakSet()
    most = 0

    class Tracked(Layer):
        __hash__ = object.__hash__

    def cards() -> Iterator[Card]:
        nonlocal most
        for index in range(50):
            layer = Tracked("photograph", "photo", "image/jpeg", b"x")
            alive.add(layer)
            most = max(most, len(alive))
            yield Card(f"{index}", "train", (), (), (1, 1), {}, [layer])
            del layer

    assert len(write(make_content(cards=cards())).cards) == 50
    assert most <= 2


def test_a_failure_leaves_the_page_that_was_there(tmp_path: Path, make_content: Callable[..., ReportContent]) -> None:
    path = tmp_path / "new" / "report.html"
    write_page(path, make_content())
    before = path.read_bytes()

    def cards() -> Iterator[Card]:
        raise OSError("no such photograph")
        yield

    with pytest.raises(OSError, match="no such photograph"):
        write_page(path, make_content(cards=cards()))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path, make_content: Callable[..., ReportContent]) -> None:
    for name in ("one.html", "two.html"):
        write_page(tmp_path / name, make_content())
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
