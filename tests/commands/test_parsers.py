import argparse

import pytest

from tag2mask.commands.parsers import add_allow_pickle, add_command, add_group


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="program")
    group = add_group(parser.add_subparsers(required=True), "fruit", "all about fruit")
    peel = add_command(group, "peel", lambda arguments: 7, "peels it", "Peels fruit\n  of all kinds.")
    add_allow_pickle(peel, "the brine")
    return parser


def test_a_command_of_a_group_has_its_handler(parser: argparse.ArgumentParser) -> None:
    arguments = parser.parse_args(["fruit", "peel"])
    assert arguments.handler(arguments) == 7
    assert not arguments.debug
    assert arguments.allow_pickle == "false"


@pytest.mark.parametrize("words", [["--allow_pickle"], ["--allow_pickle", "true"]])
def test_pickles_are_allowed_with_or_without_a_word(parser: argparse.ArgumentParser, words: list[str]) -> None:
    assert parser.parse_args(["fruit", "peel", *words]).allow_pickle == "true"


def test_a_group_needs_a_command(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["fruit"])
    with pytest.raises(SystemExit):
        parser.parse_args(["fruit", "peel", "--help"])
    assert "Peels fruit\n  of all kinds." in capsys.readouterr().out  # lines stay as they are written
