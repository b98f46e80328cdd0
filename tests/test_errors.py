from tag2mask.errors import DataError, Tag2MaskError, unknown_choice


def test_message_names_the_choices() -> None:
    assert unknown_choice("method", "cap", ["cam", "dsrg"]) == "unknown method 'cap'; choices: cam, dsrg"


def test_users_errors_have_one_base() -> None:
    assert issubclass(DataError, Tag2MaskError)
