import io

import pytest

from tag2mask.engine.progress import Reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with Reporter(stream, interval=0).task("cams", 4, done=1) as task:
        for _ in range(3):
            task.advance("loss 0.5")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("cams: 2/4, about")
    assert lines[0].endswith("loss 0.5")
    assert lines[-1].startswith("cams: 4/4 in")


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with Reporter(stream).task("cams", 2) as task:
        task.advance()
        task.advance()
    assert "2/2" in stream.getvalue()


def test_quiet_says_nothing() -> None:
    stream = io.StringIO()
    reporter = Reporter(stream, quiet=True)
    reporter.say("hello")
    with reporter.task("x", 1) as task:
        task.advance()
    assert stream.getvalue() == ""


def test_no_last_line_after_an_error() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="no"), Reporter(stream).task("x", 2) as task:
        task.advance()
        raise ValueError("no")
    assert stream.getvalue() == ""


def test_callback_for_code_that_knows_no_reporters() -> None:
    stream = io.StringIO()
    progress = Reporter(stream).callback("drawing")
    for done in range(1, 4):
        progress(done, 3)
    assert stream.getvalue().startswith("drawing: 3/3 in")
