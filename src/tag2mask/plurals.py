"""Words for one thing or several."""


def plural(count: int, one: str, several: str = "") -> str:
    """The form of a word that goes with a number: ``plural(1, "run")``, ``plural(2, "was", "were")``.

    Args:
        count: the number; 0 takes the form for several.
        one: the form for one.
        several: the other; by default `one` with an s.
    """
    return one if count == 1 else several or f"{one}s"
