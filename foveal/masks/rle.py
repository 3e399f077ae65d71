"""Run-length encoded masks: for every column the intervals of rows inside the mask. NumPy only, no torch.

The masks of a hundred objects take 100 MB as bitmaps and some hundred kilobytes as runs; flipping, cropping, resizing
and comparing them are a few operations on flat arrays. COCO's run lengths (one list a mask, column by column, zeros
first, also compressed as text) are read and written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.aliases import Ints

Short = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Masks:
    """N masks on one canvas; R runs sorted by mask, column and row. Two runs of a column never touch."""

    size: tuple[int, int]  # height, width of the canvas
    starts: Ints  # (N + 1,) first run of each mask, and R
    x: Short  # (R,) column
    top: Short  # (R,) first row
    bottom: Short  # (R,) the row after the last, more than ``top``

    # ------------------------------------------------------------------------------------------------- making
    @classmethod
    def empty(cls, size: tuple[int, int], count: int = 0) -> Masks:
        """``count`` empty masks."""
        none = np.zeros(0, np.int32)
        return cls(size, np.zeros(count + 1, np.int64), none, none, none)

    @classmethod
    def of_runs(
        cls,
        size: tuple[int, int],
        count: int,
        owner: NDArray[Any],
        x: NDArray[Any],
        top: NDArray[Any],
        end: NDArray[Any],
    ) -> Masks:
        """From runs (R,) of the masks ``owner``, in any order; runs may overlap or be empty."""
        height, width = size
        base = (owner.astype(np.int64) * width + x) * (height + 1)  # a column's keys end before the next one's begin
        keep = end > top
        low, high = (base + top)[keep], (base + end)[keep]
        order = np.argsort(low, kind="stable")
        low, high = low[order], np.maximum.accumulate(high[order])
        new = np.append(True, low[1:] > high[:-1])[: len(low)]
        low, high = low[new], high[np.append(new[1:], True)[: len(new)]]
        column, first = np.divmod(low, height + 1)
        starts = np.searchsorted(column, np.arange(count + 1) * width)
        length = high - low
        return cls(
            size, starts, (column % width).astype(np.int32), first.astype(np.int32), (first + length).astype(np.int32)
        )

    @classmethod
    def of_dense(cls, masks: Any) -> Masks:
        """From bitmaps (N, H, W)."""
        bits = np.asarray(masks, np.bool_)
        n, height, width = bits.shape
        columns = np.zeros((n, width, height + 2), np.int8)
        columns[..., 1:-1] = bits.transpose(0, 2, 1)
        change = np.diff(columns, axis=2)
        owner, x, top = np.nonzero(change == 1)
        bottom = np.nonzero(change == -1)[2]
        starts = np.searchsorted(owner, np.arange(n + 1))
        return cls((height, width), starts, x.astype(np.int32), top.astype(np.int32), bottom.astype(np.int32))

    @classmethod
    def of_counts(cls, counts: Sequence[Sequence[int] | NDArray[Any]], size: tuple[int, int]) -> Masks:
        """From COCO's run lengths, one list for each mask, which sums to height x width."""
        ends = [np.cumsum(np.asarray(c, np.int64)) for c in counts]
        begin = np.concatenate([np.zeros(0, np.int64), *(e[: len(e) // 2 * 2 : 2] for e in ends)])
        end = np.concatenate([np.zeros(0, np.int64), *(e[1::2] for e in ends)])
        owner = np.repeat(np.arange(len(ends)), [len(e) // 2 for e in ends])
        height = size[0]
        some = end > begin
        begin, end, owner = begin[some], end[some], owner[some]
        first, last = begin // height, (end - 1) // height
        number = last - first + 1  # a run continues at the top of the next column
        x = ranges(first, number)
        begin, end, owner = np.repeat(begin, number), np.repeat(end, number), np.repeat(owner, number)
        top, bottom = np.maximum(begin - x * height, 0), np.minimum(end - x * height, height)
        return cls.of_runs(size, len(ends), owner, x, top, bottom)

    @classmethod
    def join(cls, parts: Sequence[Masks], size: tuple[int, int]) -> Masks:
        """Concatenates masks on the same canvas."""
        counts = np.concatenate([np.zeros(1, np.int64), *(np.diff(p.starts) for p in parts)])
        none = np.zeros(0, np.int32)
        x, top, bottom = (np.concatenate([none, *(getattr(p, name) for p in parts)]) for name in ("x", "top", "bottom"))
        return cls(size, np.cumsum(counts), x, top, bottom)

    # ------------------------------------------------------------------------------------------------ reading
    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def owner(self) -> Ints:
        """(R,) the mask of each run."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def area(self) -> Ints:
        """(N,) number of pixels."""
        total = np.append(0, np.cumsum(self.bottom - self.top, dtype=np.int64))
        return np.asarray(total[self.starts[1:]] - total[self.starts[:-1]])

    def extents(self) -> NDArray[np.float64]:
        """(N, 4) the box around each mask, xyxy half-open; zeros for an empty mask."""
        boxes = np.zeros((len(self), 4))
        some = np.diff(self.starts) > 0
        first = self.starts[:-1][some]
        if len(first):
            boxes[some] = np.stack(
                [
                    np.minimum.reduceat(self.x, first),
                    np.minimum.reduceat(self.top, first),
                    np.maximum.reduceat(self.x, first) + 1,
                    np.maximum.reduceat(self.bottom, first),
                ],
                1,
            )
        return boxes

    def dense(self) -> NDArray[np.bool_]:
        """(N, H, W) bitmaps."""
        height, width = self.size
        change = np.zeros((len(self), width, height + 1), np.int8)
        change[self.owner, self.x, self.top] = 1
        change[self.owner, self.x, self.bottom] = -1
        return np.ascontiguousarray(np.cumsum(change, 2, np.int8)[..., :-1].view(np.bool_).transpose(0, 2, 1))

    def flat(self) -> tuple[Ints, Ints]:
        """(R,) first position of each run and the one after its last, counted column by column."""
        base = self.x.astype(np.int64) * self.size[0]
        return base + self.top, base + self.bottom

    def counts(self) -> list[Ints]:
        """COCO's run lengths of each mask."""
        begin, end = self.flat()
        rows = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        return [run_lengths(begin[low:high], end[low:high], self.size[0] * self.size[1]) for low, high in rows]

    def to_coco(self) -> list[dict[str, Any]]:
        """``{"size": [height, width], "counts": text}`` of each mask: COCO's compressed run lengths."""
        return [{"size": list(self.size), "counts": squeeze(c)} for c in self.counts()]

    # ----------------------------------------------------------------------------------------------- changing
    def __getitem__(self, index: Any) -> Masks:
        """Some of the masks: indices, a slice or flags (N,), as arrays or CPU tensors."""
        rows = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)].reshape(-1)
        count = np.diff(self.starts)[rows]
        runs = ranges(self.starts[rows], count)
        starts = np.append(0, np.cumsum(count))
        return Masks(self.size, starts, self.x[runs], self.top[runs], self.bottom[runs])

    def union(self) -> Masks:
        """One mask: what any of them covers."""
        return Masks.of_runs(self.size, 1, np.zeros(len(self.x), np.int64), self.x, self.top, self.bottom)

    def minus(self, other: Masks) -> Masks:
        """Each mask without what ``other``, one mask on the same canvas, covers."""
        begin, end = self.flat()
        taken, free = other.flat()  # sorted: one mask
        free, taken = np.append(0, free), np.append(taken, self.size[0] * self.size[1])  # the gaps between its runs
        first, last = np.searchsorted(taken, begin, "right"), np.searchsorted(free, end, "left")
        number = np.maximum(last - first, 0)
        gaps = ranges(first, number)
        owner, x = np.repeat(self.owner, number), np.repeat(self.x, number)
        base = x.astype(np.int64) * self.size[0]
        low = np.maximum(np.repeat(begin, number), free[gaps]) - base
        high = np.minimum(np.repeat(end, number), taken[gaps]) - base
        return Masks.of_runs(self.size, len(self), owner, x, low, high)

    def flipped(self) -> Masks:
        """Mirrors left and right."""
        x = self.size[1] - 1 - self.x
        return Masks.of_runs(self.size, len(self), self.owner, x, self.top, self.bottom)

    def window(self, top: int, left: int, height: int, width: int) -> Masks:
        """The part inside a window, which may extend beyond the canvas; the window is the new canvas."""
        x = self.x - left
        inside = (x >= 0) & (x < width)
        rows = ((edge - top).clip(0, height) for edge in (self.top[inside], self.bottom[inside]))
        return Masks.of_runs((height, width), len(self), self.owner[inside], x[inside], *rows)

    def resized(self, height: int, width: int) -> Masks:
        """Nearest-neighbor resizing: every new pixel has the value of the old one that contains its center."""
        if (height, width) == self.size:
            return self
        low, high = _new_edges(self.size[1], width)[:, self.x]
        rows = _new_edges(self.size[0], height)
        number = high - low
        x = ranges(low, number)
        owner, top, bottom = (
            np.repeat(values, number) for values in (self.owner, rows[0, self.top], rows[1, self.bottom - 1])
        )
        return Masks.of_runs((height, width), len(self), owner, x, top, bottom)

    def in_frame(self, sx: float, sy: float, ox: float, oy: float) -> Masks:
        """In network pixels: x of the image is at x * sx + ox. The canvas ends with the image."""
        height, width = round(self.size[0] * sy), round(self.size[1] * sx)
        top, left = round(oy), round(ox)
        return self.resized(height, width).window(-top, -left, top + height, left + width)


def _new_edges(old: int, new: int) -> Ints:
    """(2, old) first new row of each old row, and the one after its last."""
    source = ((np.arange(new) + 0.5) * old / new).astype(np.int64)
    edge = np.searchsorted(source, np.arange(old + 1))
    return np.stack([edge[:-1], edge[1:]])


def run_lengths(begin: Ints, end: Ints, pixels: int) -> Ints:
    """COCO's run lengths, zeros first, from positions (R,) of runs that may touch."""
    apart = begin[1:] > end[:-1]
    first, last = begin[np.append(True, apart)[: len(begin)]], end[np.append(apart, True)[: len(end)]]
    ends = np.concatenate([[0], np.stack([first, last], 1).reshape(-1), [pixels]])
    lengths = np.diff(ends)
    return np.asarray(lengths[:-1] if len(lengths) > 1 and lengths[-1] == 0 else lengths)


def ranges(begin: NDArray[Any], count: NDArray[Any]) -> Ints:
    """``begin[0], begin[0] + 1, ...`` (``count[0]`` of them), then those of ``begin[1]``, and so on."""
    return np.asarray(np.arange(count.sum()) + np.repeat(begin - (np.cumsum(count) - count), count))


# ------------------------------------------------------------------------------------------- COCO's compressed text
# A run length is written as its difference from the one two before it (from the fourth on), five bits a character,
# lowest first; 32 marks that more follow, 16 in the last character a negative number; 48 makes it printable.
def squeeze(counts: NDArray[Any]) -> str:
    """Run lengths -> COCO's compressed text."""
    values = np.asarray(counts, np.int64).copy()
    values[3:] -= np.asarray(counts, np.int64)[1:-2]
    digits = []
    going = np.ones(len(values), np.bool_)
    while going.any():
        part = values & 31
        values >>= 5
        more = going & (values != np.where(part & 16, -1, 0))
        digits.append(np.where(going, part + np.where(more, 32, 0) + 48, 0))
        going = more
    letters = np.stack(digits, 1).reshape(-1).astype(np.uint8) if digits else np.zeros(0, np.uint8)
    return letters[letters > 0].tobytes().decode("ascii")


def unsqueeze(text: str) -> Ints:
    """COCO's compressed text -> run lengths. Raises ``ValueError`` for invalid text."""
    if not text.isascii():
        raise ValueError("not COCO's run lengths")
    letters = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if len(letters) and (letters.min() < 0 or letters.max() > 63 or letters[-1] & 32):
        raise ValueError("not COCO's run lengths")
    last = np.flatnonzero(letters & 32 == 0)
    first = np.append(0, last[:-1] + 1)[: len(last)]
    position = np.arange(len(letters)) - np.repeat(first, last - first + 1)
    if len(position) and position.max() > 6:  # seven characters hold 2^34
        raise ValueError("not COCO's run lengths")
    bits = (letters & 31) << (5 * position)
    values = np.add.reduceat(bits, first) if len(first) else np.zeros(0, np.int64)
    values = np.where(letters[last] & 16, values - (np.int64(1) << (5 * (position[last] + 1))), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def pad_runs(masks: Sequence[Masks | None], objects: int) -> Short | None:
    """The runs of all masks of B images, padded to the mask with the most of them: (B, G, M, 3); None without masks."""
    if all(m is None for m in masks):
        return None
    longest = max(int(np.diff(m.starts).max(initial=1)) for m in masks if m is not None)
    runs = np.zeros((len(masks), objects, longest, 3), np.int32)
    for padded, m in zip(runs, masks, strict=True):
        if m is not None:
            owner = m.owner
            padded[owner, np.arange(len(owner)) - m.starts[owner]] = np.stack([m.x, m.top, m.bottom], 1)
    return runs
