"""SEC's expansion loss as settings."""

from dataclasses import dataclass

from tag2mask.errors import SettingsError


@dataclass(frozen=True)
class ExpansionSettings:
    """Weighted rank pooling (SEC, eq. 4 and 5): how much of the image a class is expected to cover.

    A decay d weighs the pixels of a class, sorted by probability, by 1, d, d², ... The paper's are for 41 x 41 cells.

    Args:
        enabled: take the loss.
        present_decay: of tagged classes.
        background_decay: of background.
        absent_decay: of all other classes; 0 takes the largest probability.
    """

    enabled: bool = True
    present_decay: float = 0.996
    background_decay: float = 0.999
    absent_decay: float = 0.0

    def __post_init__(self) -> None:
        for name, value in self.decays.items():
            if not 0 <= value <= 1:
                raise SettingsError(f"expansion.{name}: {value} must lie between 0 and 1")

    @property
    def decays(self) -> dict[str, float]:
        """The decays by the names the loss has for them."""
        return {name: getattr(self, name) for name in ("present_decay", "background_decay", "absent_decay")}
