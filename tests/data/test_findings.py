import json
import re
from dataclasses import replace
from pathlib import Path

from tag2mask.data.findings import NOTES, PROBLEMS, DataCheck, Note, SizeCheck, SplitCheck, UnusableData
from tag2mask.data.problems import Problem
from tag2mask.errors import DataError
from tests.conftest import ROOT

TRAIN = SplitCheck("train", 4, 2, tagged=(3, 1), by_tags=(1, 2, 1), pixels=(60, 25, 5, 10))
VAL = SplitCheck("val", 1, 0, tagged=(1, 0), by_tags=(0, 1), pixels=(0, 0, 0, 0))
FOUND = DataCheck(
    root=Path("/photos"),
    layout="csv",
    classes=("cat", "dog"),
    splits=(TRAIN, VAL),
    sizes=SizeCheck((10, 20), (30, 20), (40, 40), different=3, landscape=2, portrait=2, square=1),
    formats={"JPEG": 4, "PNG": 1},
    problems=(),
    notes=(),
)


def test_shares_and_means() -> None:
    assert TRAIN.mean_tags == 1
    assert TRAIN.pixel_shares == (0.6, 0.25, 0.05, 0.1)
    assert VAL.pixel_shares is None


TEXT = """\
/photos: layout csv, 2 classes

list                 train      val
photographs              4        1
with a true mask  2 (50 %)  0 (0 %)

class       photos train  photos val  pixels train
cat                    3           1       25.00 %
dog                    1           0        5.00 %
background                                 60.00 %
unlabelled                                 10.00 %

tags per photo  train   val
0                   1     0
1                   2     1
2                   1     0
mean             1.00  1.00

sizes:   smallest 10x20, median 30x20, largest 40x40; 3 different
shapes:  2 landscape, 2 portrait, 1 square
formats: 4 JPEG, 1 PNG

no problems"""


def test_the_text_without_problems() -> None:
    assert FOUND.ok
    assert FOUND.text() == TEXT


def test_long_lists_are_cut_and_say_so() -> None:
    problems = tuple(Problem("no-row", f"{number}.jpg: no row") for number in range(22))
    names = tuple(f"{number}.png" for number in range(4))
    text = replace(FOUND, problems=problems, notes=(Note("grey", names), Note("small", names[:2]))).text()
    assert "problems: 22\n  photographs without a row (22):\n    0.jpg: no row\n" in text
    assert "    19.jpg: no row\n    ... and 2 more (--json has all)\n" in text
    assert f"\n  4 {NOTES['grey']} (0.png, 1.png, 2.png, ...)\n" in text
    assert text.endswith(f"\n  2 {NOTES['small']} (0.png, 1.png)")


def test_values_are_json() -> None:
    found = replace(FOUND, problems=(Problem("bad-row", "line 3"),), notes=(Note("cmyk", ("a.jpg",)),))
    content = json.loads(json.dumps(found.to_dict()))
    assert (content["root"], content["ok"], content["sizes"]["median"]) == ("/photos", False, [30, 20])
    assert content["splits"][0]["pixel_shares"] == [0.6, 0.25, 0.05, 0.1]
    assert content["splits"][1]["mean_tags"] == 1
    assert content["problems"] == [{"kind": "bad-row", "message": "line 3"}]
    assert content["notes"] == [{"kind": "cmyk", "title": NOTES["cmyk"], "names": ["a.jpg"]}]


def test_unusable_data_tells_the_error_and_what_was_found_before() -> None:
    error = UnusableData(Path("/photos"), [Problem("bad-row", "line 3")], DataError("no class is named"))
    assert str(error) == "no class is named; after 1 problem, first: line 3"
    assert error.text() == "problems: 1\n  rows that cannot be understood (1):\n    line 3"
    assert error.to_dict()["error"] == str(error)
    alone = UnusableData(Path("/photos"), [], DataError("no such folder"))
    assert (str(alone), alone.text()) == ("no such folder", "")


def test_every_kind_of_problem_has_a_heading_and_is_documented() -> None:
    of_readers = re.findall(r"``\"([\w-]+)\"``", Problem.__doc__ or "")
    assert len(of_readers) > 5
    assert set(of_readers) <= set(PROBLEMS)
    page = (ROOT / "docs" / "data-sets.md").read_text()
    documented = re.findall(r"^\| ([^|]+) \| `([\w-]+)` \|", page, flags=re.MULTILINE)
    assert {kind: heading for heading, kind in documented} == PROBLEMS
