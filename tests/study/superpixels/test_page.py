import csv
import html
import re
from pathlib import Path

from tag2mask.study.superpixels.contenders import Row
from tag2mask.study.superpixels.page import cells, headings, write_page, write_table

SCORES = {
    "superpixels": 12.345,
    "undersegmentation_error": 0.1234,
    "boundary_precision": 0.05,
    "boundary_recall": None,
    "achievable_accuracy": 0.9,
}
RUN = Row(
    "Ours", "rule", "0.3", "tau 0.3", 7, {"labelled": SCORES, "with_unlabelled": {**SCORES, "boundary_recall": 1}}
)
NOT_RUN = Row("<b>DINO</b>", "features", "", "", 0, {}, "not run: weights (give a path)")


def test_cells_stand_under_their_headings() -> None:
    found = dict(zip(headings(), cells(RUN), strict=True))
    assert found == {
        "method": "Ours",
        "setting": "tau 0.3",
        "photographs": "7",
        "superpixels": "12.35",
        "UE": "0.123",
        "BP": "0.050",
        "BR": "-",
        "ASA": "0.900",
        "BP, 255": "0.050",
        "BR, 255": "1.000",
    }


def test_tables_are_csv(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [RUN, NOT_RUN])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [headings(), cells(RUN), [NOT_RUN.name, NOT_RUN.note]]


def test_the_page_is_one_safe_file(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_page(
        page,
        about={"data": "<script>alert(1)</script>"},
        notes=["a note"],
        tables={"Features": [RUN, NOT_RUN]},
        compared=[],
        figures=[],
        stages=[("scores", 3.0)],
    )
    text = page.read_text()
    assert "<script" not in text
    assert "default-src 'none'" in html.unescape(text)
    assert "&lt;b&gt;DINO&lt;/b&gt;" in text
    assert "not run: weights (give a path)" in text
    assert "3 s" in text
    assert "Ours at as many" not in text


def test_the_better_figure_is_bold(tmp_path: Path) -> None:
    entry = {
        "name": "SLIC",
        "setting": "80 px",
        "superpixels": 20.0,
        "ours_superpixels": 20.0,
        "undersegmentation_error": 0.2,
        "ours_undersegmentation_error": 0.1,
        "achievable_accuracy": 0.96,
        "ours_achievable_accuracy": 0.95,
    }
    page = tmp_path / "report.html"
    write_page(page, about={}, notes=[], tables={}, compared=[entry], figures=[], stages=[])
    assert re.findall(r'<td class="better">([\d.]+)</td>', page.read_text()) == ["0.100", "0.960"]
