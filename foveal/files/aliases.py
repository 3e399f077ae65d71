"""Type aliases of several folders: in the folder that all of them may import, and without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ImageArray = NDArray[np.uint8]  # (H, W, 3) RGB
Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
OnProgress = Callable[[int, int], None]  # called with (done, total); total is 0 where it is unknown
PathLike = str | Path
