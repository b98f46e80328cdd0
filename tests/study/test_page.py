import html
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from tag2mask.study.figures import Figure
from tag2mask.study.page import write_study_page


def _write(path: Path, **changes: object) -> str:
    given = {
        "title": "A <study>",
        "about": {"data": "<script>"},
        "notes": ["a note"],
        "figures": [],
        "stages": [("scores", 3.0)],
        "filters": {"percent": str},
        "rows": [],
        "patterns": {"block": {}},
    }
    write_study_page(path, "dcp/page.html.jinja", **{**given, **changes})  # type: ignore[arg-type]
    return path.read_text()


def test_the_page_is_one_safe_file(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    text = _write(tmp_path / "p.html", figures=[Figure("A figure", "How to read it.", tmp_path / "a.png")])
    assert "<h1>A &lt;study&gt;</h1>" in text
    assert "<script" not in text
    assert "default-src 'none'" in html.unescape(text)
    assert text.count("data:image/png;base64,") == 1
    assert "<strong>A figure.</strong> How to read it." in text
    assert "3 s" in text


def test_what_a_template_needs_has_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="is undefined"):
        write_study_page(
            tmp_path / "p.html",
            "dcp/page.html.jinja",
            title="",
            about={},
            notes=[],
            figures=[],
            stages=[],
            filters={"percent": str},
        )
