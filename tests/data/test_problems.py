import pytest

from tag2mask.data.problems import Problem, raise_problem
from tag2mask.errors import DataError


def test_a_problem_is_raised_in_one_line() -> None:
    with pytest.raises(DataError, match=r"^a\.jpg: is gone$"):
        raise_problem(Problem("missing-photograph", "a.jpg: is gone"))


def test_a_summary_speaks_for_all_of_its_kind() -> None:
    with pytest.raises(DataError, match=r"^3 are gone$"):
        raise_problem(Problem("missing-photograph", "a.jpg: is gone", "3 are gone"))
