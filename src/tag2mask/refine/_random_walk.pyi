import numpy as np
import numpy.typing as npt

def walk(
    maps: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int32],
    coefficients: npt.NDArray[np.float32],
    result: npt.NDArray[np.float32],
) -> None: ...
