"""Hypothesis for our properties: how many examples run, and strategies for boxes, scores and bitmaps.

Arrays are drawn as bytes that index tables of 256 numbers: one draw for each array, which shrinks to the first numbers
of a table, and ties, touching and empty boxes are frequent. ``FOVEAL_EXAMPLES=20000`` (``make test-slow``) replaces the
everyday 500, which are always the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

EVERYDAY = 500
EXAMPLES = int(os.environ.get("FOVEAL_EXAMPLES", EVERYDAY))
settings.register_profile(
    "foveal",
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= EVERYDAY,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("foveal")


@dataclass(frozen=True, eq=False)
class Table:
    """256 numbers, one for each byte. Hypothesis asks for the text of what it draws from, thousands of times."""

    name: str
    values: NDArray[np.float32]

    def __repr__(self) -> str:
        return self.name

    @classmethod
    def of(cls, name: str, values: Any) -> Table:
        with np.errstate(over="ignore", under="ignore"):
            return cls(name, np.resize(np.asarray(values, np.float64), 256).astype(np.float32))


_RNG = np.random.default_rng(22)
_SIZES = (
    0.0,
    1e-45,
    1e-38,
    1e-30,
    1e-10,
    1e-6,
    1e-3,
    0.5,
    1.0,
    7.0,
    300.0,
    65504.0,
    1e5,
    1e9,
    1e18,
    1e25,
    1e30,
    3.38e38,
)
STEPS = Table.of("STEPS", np.arange(9))  # ties, equal boxes, empty boxes
QUARTERS = Table.of("QUARTERS", np.arange(256) / 4)  # 0..63.75: areas and overlaps are exact in float32
REAL = Table.of("REAL", _RNG.uniform(0, 200, 256))
SIGNED = Table.of("SIGNED", [0.0, *_RNG.normal(0, 3, 255)])
WILD = Table.of("WILD", [sign * size for size in _SIZES for sign in (1, -1)])
ORDINARY = (STEPS, QUARTERS, REAL)


def examples(everyday: int) -> Any:
    """For a property that costs more than others: so many examples a day, and 40 times as many in the slow run."""
    return settings(max_examples=max(1, everyday * EXAMPLES // EVERYDAY))


def numbers(table: Table, raw: bytes) -> Tensor:
    """A byte of ``raw`` is an index into ``table`` -> (n,) float32."""
    return torch.from_numpy(table.values[np.frombuffer(raw, np.uint8)])


@st.composite
def tensors(draw: Any, *shape: int, tables: Any = (SIGNED,)) -> Tensor:
    """(``shape``) float32 from one of the tables."""
    table = draw(st.sampled_from(tables)) if len(tables) > 1 else tables[0]
    count = int(np.prod(shape))
    return numbers(table, draw(st.binary(min_size=count, max_size=count))).view(shape)


@st.composite
def boxes(draw: Any, low: int = 0, high: int = 6, tables: Any = ORDINARY, ordered: bool = True) -> Tensor:
    """(``low`` to ``high``, 4) float32 ``xyxy``, some of them empty; corners in any order unless ``ordered``."""
    n = draw(st.integers(low, high)) if high > low else low
    made = draw(tensors(n, 4, tables=tables))
    if ordered:
        made = torch.cat([torch.minimum(made[:, :2], made[:, 2:]), torch.maximum(made[:, :2], made[:, 2:])], 1)
    return made


@st.composite
def sized_boxes(
    draw: Any, low: int = 1, high: int = 6, tables: Any = (QUARTERS, REAL), smallest: float = 0.5
) -> Tensor:
    """As :func:`boxes`, with sides of at least ``smallest``."""
    n = draw(st.integers(low, high)) if high > low else low
    corner, side = draw(tensors(2, n, 2, tables=tables))
    return torch.cat([corner, corner + side + smallest], 1)


def flags(*shape: int) -> Any:
    """(``shape``) bool."""
    count = int(np.prod(shape))
    made = st.binary(min_size=count, max_size=count)
    return made.map(lambda raw: torch.from_numpy(np.frombuffer(raw, np.uint8) % 2 == 1).view(shape))


def labels(*shape: int, classes: int) -> Any:
    """(``shape``) int64 below ``classes``."""
    count = int(np.prod(shape))
    made = st.binary(min_size=count, max_size=count)
    return made.map(lambda raw: torch.from_numpy(np.frombuffer(raw, np.uint8).astype(np.int64) % classes).view(shape))


def distinct_scores(count: int) -> Any:
    """(count,) float32 in 0..1, all different, in any order."""
    return st.permutations(range(count)).map(lambda order: (torch.tensor(order, dtype=torch.float32) + 1) / (count + 1))


def bitmaps(low: int = 0, high: int = 4, side: int = 9) -> Any:
    """(N, H, W) bool, H and W from 1 to ``side``."""

    def made(drawn: tuple[int, int, int, bytes]) -> NDArray[np.bool_]:
        n, height, width, raw = drawn
        bits = np.unpackbits(np.frombuffer(raw, np.uint8))
        return np.resize(bits, n * height * width).reshape(n, height, width).astype(bool)

    sides = st.integers(1, side)
    return st.tuples(st.integers(low, high), sides, sides, st.binary(min_size=1, max_size=42)).map(made)
