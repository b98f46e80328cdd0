"""Problems with one image, row or line of a data set, and what becomes of them.

Readers hand every such finding to a function of type `Report`. For a run that is `raise_problem`: the first problem
ends the reading. A function that returns, `list.append` say, lets the reader go on without the image (or without its
mask, or without the tag, where only these are wrong), so that all problems are found in one pass. What makes the whole
data set unusable is no `Problem` but a `DataError` in either case.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from tag2mask.errors import DataError


@dataclass(frozen=True)
class Problem:
    """Something wrong with one image, row or line.

    Attributes:
        kind: stable key of what is wrong:
            ``"bad-row"``: a row, a line of a list or an entry of an annotation file that cannot be understood;
            ``"unsafe-id"``: a path that leaves its folder, or a name that is no printable text;
            ``"missing-photograph"``, ``"missing-mask"``: a file that is named and not there;
            ``"missing-tags"``: an image on a list without tags; ``"no-row"``: one that lies there without a row;
            ``"duplicate-row"``: the same image named twice; ``"duplicate-id"``: two images of one id;
            ``"unknown-class"``: a tag that is no class;
            ``"stray-file"``, ``"empty-class"``: what does not belong where images lie in folders of classes.
        message: one line that names the file, and the row where there is one.
        summary: one line for all problems of the kind, where naming only the first would say too little.
    """

    kind: str
    message: str
    summary: str | None = None


Report = Callable[[Problem], None]
"""Takes a problem; reading goes on when it returns."""


def raise_problem(problem: Problem) -> NoReturn:
    """Ends the reading at the first problem.

    Raises:
        DataError: always, with the problem's summary or else its message.
    """
    raise DataError(problem.summary or problem.message)
