"""Figures as people read them."""


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal; a dash where it is not defined."""
    return "-" if value is None else f"{100 * value:.1f}"
