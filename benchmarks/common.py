"""Timing of contenders in interleaved rounds, and measures of memory, operations and host syncs.

    from common import OpCount, PeakMemory, parser, race, setup

    args = setup(parser(__doc__))
    race("match 160k x 100", {"torchvision": theirs, "foveal": ours}, rounds=args.rounds)

Contenders run in turn (A B C, A B C, ...), so that a drift of the machine's speed touches all of them alike.
One thread by default: with two threads on a shared machine, other processes distort the result.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Contender = Callable[[], object]


# ------------------------------------------------------------------------------------------------ arguments
def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has: ``--rounds``, ``--only``, ``--threads``."""
    p = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0] if doc else None)
    p.add_argument("--rounds", type=int, default=5, help="interleaved rounds of every race")
    p.add_argument("--only", default="", help="run the races whose title contains this text")
    p.add_argument("--threads", type=int, default=1, help="torch threads")
    return p


def setup(p: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the arguments, sets the number of threads and prints the versions used."""
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"# python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread(s)",
        flush=True,
    )
    return args


# ----------------------------------------------------------------------------------------------------- race
def race(
    title: str,
    contenders: Mapping[str, Contender],
    rounds: int = 5,
    min_time: float = 0.0,
    baseline: str | None = None,
    unit: str = "ms",
) -> dict[str, float]:
    """Times contenders in interleaved rounds, prints a table and returns ``{name: median seconds of one call}``.

    ``min_time`` repeats a short call within a round until it has taken about that many seconds. ``baseline`` is the
    row that the ratios refer to, by default the first. A contender that raises becomes a row of the table.
    """
    loops: dict[str, int] = {}
    failed: dict[str, str] = {}
    for name, fn in contenders.items():
        try:
            fn()  # the first call pays for lazy set-up
            start = time.perf_counter()
            fn()
            once = time.perf_counter() - start
            loops[name] = max(1, round(min_time / max(once, 1e-9)))
        except Exception as e:
            failed[name] = f"{type(e).__name__}: {e}".splitlines()[0][:100]
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, n in loops.items():
            fn = contenders[name]
            gc.collect()
            start = time.perf_counter()
            for _ in range(n):
                fn()
            times[name].append((time.perf_counter() - start) / n)
    medians = {name: statistics.median(t) for name, t in times.items()}
    _print_race(title, list(contenders), times, medians, failed, rounds, baseline, unit)
    return medians


def _print_race(
    title: str,
    names: list[str],
    times: dict[str, list[float]],
    medians: dict[str, float],
    failed: dict[str, str],
    rounds: int,
    baseline: str | None,
    unit: str,
) -> None:
    base = baseline if baseline in medians else next(iter(medians), None)
    scale = {"s": 1.0, "ms": 1e3, "us": 1e6}[unit]
    width = max(24, *(len(n) for n in names))
    print(f"\n## {title}   ({rounds} interleaved rounds, ratio to: {base})")
    print(f"{'':{width}s} {'median ' + unit:>12s} {'fastest':>10s} {'slowest':>10s} {'ratio':>8s} {'by fastest':>10s}")
    for name in names:
        if name in failed:
            print(f"{name:{width}s} {failed[name]}")
            continue
        t = times[name]
        ratios = ""
        if base is not None:
            ratios = f"{medians[base] / medians[name]:7.2f}x {min(times[base]) / min(t):9.2f}x"
        print(
            f"{name:{width}s} {medians[name] * scale:12.3f} {min(t) * scale:10.3f} {max(t) * scale:10.3f} {ratios}",
            flush=True,
        )


# --------------------------------------------------------------------------------------------------- memory
class PeakMemory:
    """Peak bytes of tensors allocated inside the block and alive at once, as torch's own allocator reports them.

    Earlier allocations do not count. The result does not depend on when the C library returns memory to the system, so
    it is exactly repeatable.

        with PeakMemory() as memory:
            step()
        print(memory.mb)
    """

    bytes: int = 0

    @property
    def mb(self) -> float:
        return self.bytes / 2**20

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self._profile = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=False
        )
        self._profile.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profile.__exit__(kind, error, trace)
        if error is not None:
            return
        results = self._profile.profiler.kineto_results  # type: ignore[union-attr]
        events = [e for e in results.events() if e.name() == "[memory]"]
        alive = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            alive += event.nbytes()
            self.bytes = max(self.bytes, alive)


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """:class:`PeakMemory` as a function."""
    with PeakMemory() as memory:
        yield memory


# ------------------------------------------------------------------------------------------------ operations
_SYNCS = {
    "_local_scalar_dense",  # .item(), bool(tensor), float(tensor)
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "unique_dim_consecutive",
    "equal",
    "nms",
    "bincount",
}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class OpCount(TorchDispatchMode):
    """Counts the operations of a block, backward included, and those that make the CPU wait for a GPU.

    ``syncs`` counts by name: ``_local_scalar_dense`` (``.item()``, ``if tensor``), ``nonzero``, ``boolean index``,
    ``unique``, ``masked_select``, ``nms``, ``repeat_interleave`` without an output size. ``total`` counts every
    operation that is not a view: at least one kernel launch each. Works on CPU tensors, so no GPU is needed;
    ``tolist()`` and ``numpy()`` of a CPU tensor pass unseen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ops: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return sum(self.ops.values())

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        if not func.is_view:
            self.ops[name] += 1
        if name in _SYNCS:
            self.syncs["unique" if "unique" in name else name] += 1
        elif name in _INDEXING and len(args) > 1 and _boolean(args[1]):
            self.syncs["boolean index"] += 1
        elif name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.syncs["repeat_interleave"] += 1
        return func(*args, **kwargs)


def _boolean(indices: Any) -> bool:
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)
