"""Numbers and words as people read them."""


def plural(count: int, one: str, several: str = "") -> str:
    """The form of a word that goes with a number: ``plural(1, "run")``, ``plural(2, "was", "were")``.

    Args:
        count: the number; 0 takes the form for several.
        one: the form for one.
        several: the other; by default `one` with an s.

    Example:
        >>> plural(0, "run"), plural(1, "run"), plural(2, "was", "were")
        ('runs', 'run', 'were')
    """
    return one if count == 1 else several or f"{one}s"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``"42 s"``, ``"3 min 20 s"``, ``"2 h 05 min"``.

    Example:
        >>> duration(200)
        '3 min 20 s'
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal; a dash where it is not defined."""
    return "-" if value is None else f"{100 * value:.1f}"
