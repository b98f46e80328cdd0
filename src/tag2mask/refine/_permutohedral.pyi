import numpy as np
import numpy.typing as npt

def forget() -> None: ...
def kept() -> list[tuple[int, int]]: ...
def levels() -> list[str]: ...
def mean_field(
    image: npt.NDArray[np.uint8],
    scores: npt.NDArray[np.float32],
    iterations: int,
    gaussian_sxy: float,
    gaussian_weight: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_weight: float,
    level: str = "",
) -> None: ...
