"""Which layers this processor computes wrongly in bf16: forward and gradients against fp32, memory poisoned.

    python benchmarks/narrow_maps.py                   # a sample of 1,000 layers: a few minutes on one thread
    python benchmarks/narrow_maps.py --full            # all 130,934: many hours
    python benchmarks/narrow_maps.py --guarded         # as foveal runs them: nothing may fail
    python benchmarks/narrow_maps.py --format float16  # or float32, whose reference is float64

The product swept: kernels 1, 2, 3, 5, 7; strides 1, 2, 3; dilations 1, 2, 6; groups 1, 2 and depthwise; padding none
and "same"; maps of 1 x 1 to 33 x 4 cells; batches of 0, 1 and 2; 3 to 256 channels; channels-last and contiguous;
transposed convolutions likewise; linear layers, pooling and interpolation. Every block that malloc hands out is filled
with 0x7f bytes (3e38 in bf16 and fp32; glibc alone), so that a value which nobody wrote stands out every time.

A line of the table is what failed of one quantity: how many of how many layers, by kernel, stride and layout, and on
which maps (input -> output). The last lines count by the two things that turned out to matter. Exit status 1 where
something failed.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foveal.parts.layers.narrow_maps import guard_narrow, is_narrow

QUANTITIES = ("forward", "input gradient", "weight gradient", "bias gradient")
SIZES = [(1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (3, 3), (2, 5), (5, 2), (5, 5), (1, 16), (16, 1), (16, 16)]
SIZES += [(4, 33), (33, 4)]
TOLERANCE = 0.03  # of the largest value; bf16 rounds to 0.004, and what is wrong is off by 0.3 and more


class Case(NamedTuple):
    kind: str  # conv, transposed, linear, max pool, average pool, nearest, bilinear
    kernel: int
    stride: int
    dilation: int
    groups: int
    padding: int
    channels: int
    size: tuple[int, int]
    batch: int
    layout: str  # last, first

    def layer(self) -> nn.Module:
        c, k, s = self.channels, self.kernel, self.stride
        if self.kind == "conv":
            return nn.Conv2d(c, c, k, s, self.padding, self.dilation, self.groups)
        if self.kind == "transposed":
            return nn.ConvTranspose2d(c, c, k, s, self.padding, min(1, s - 1), self.groups, dilation=self.dilation)
        if self.kind == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(c * self.size[0] * self.size[1], 64))
        if self.kind == "max pool":
            return nn.MaxPool2d(k, s, self.padding)
        if self.kind == "average pool":
            return nn.AvgPool2d(k, s, self.padding)
        return nn.Upsample(scale_factor=s, mode=self.kind)


# ------------------------------------------------------------------------------------------------ the product
def cases() -> Iterator[Case]:
    """All of them, the impossible ones left out."""
    around = list(product((3, 32, 96, 128, 256), SIZES, (0, 1, 2), ("last", "first")))
    for kind, k, s, d, g in product(("conv", "transposed"), (1, 2, 3, 5, 7), (1, 2, 3), (1, 2, 6), (1, 2, 0)):
        for p, (c, size, b, layout) in product(sorted({0, d * (k - 1) // 2}), around):
            groups = g or c
            reach = d * (k - 1) + 1
            empty = min(size) + 2 * p < reach if kind == "conv" else (min(size) - 1) * s - 2 * p + reach < 1
            odd = (d > 1 and k == 1) or (p > 0 and k % 2 == 0)  # no dilation to speak of; no "same" padding
            if not (empty or odd or c % groups):
                yield Case(kind, k, s, d, groups, p, c, size, b, layout)
    for c, size, b, layout in around:
        yield Case("linear", 1, 1, 1, 1, 0, c, size, b, layout)
        for kind, (k, s, p) in product(("max pool", "average pool"), ((2, 2, 0), (3, 2, 1), (3, 1, 1), (1, 2, 0))):
            if b and min(size) + 2 * p >= k:
                yield Case(kind, k, s, 1, 1, p, c, size, b, layout)
        if b:
            yield from (Case(kind, 1, 2, 1, 1, 0, c, size, b, layout) for kind in ("nearest", "bilinear"))


# -------------------------------------------------------------------------------------------------- one layer
def run(case: Case, layer: nn.Module, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients with input, weights and output's gradient in ``dtype``; all the same at every call."""
    rng = torch.Generator().manual_seed(0)
    memory = torch.channels_last if case.layout == "last" else torch.contiguous_format

    def values(shape: torch.Size | tuple[int, ...]) -> Tensor:
        plain = torch.randn(shape, generator=rng).bfloat16().to(dtype)  # the same numbers in every format
        return plain.contiguous(memory_format=memory) if plain.dim() == 4 else plain

    x = values((case.batch, case.channels, *case.size)).requires_grad_()
    layer.to(dtype)
    for p in layer.parameters():
        p.data = values(p.shape)
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], values(y.shape))]


def failures(case: Case, dtype: torch.dtype, guarded: bool) -> tuple[set[str], Tensor]:
    """Which quantities are wrong, and the reference's output."""
    reference = torch.float64 if dtype == torch.float32 else torch.float32
    want = run(case, case.layer(), reference)
    layer = case.layer()
    if guarded:
        guard_narrow(layer)
    found = run(case, layer, dtype)
    wrong = set()
    for name, f, w in zip(QUANTITIES, found, want, strict=False):
        if w.numel() == 0:
            continue
        error = (f.to(reference) - w).abs().max() / w.abs().max().clamp(min=1e-3)
        if not error < TOLERANCE:  # NaN too
            wrong.add(name)
    return wrong, want[0]


# -------------------------------------------------------------------------------------------------- the table
def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--full", action="store_true", help="every layer instead of a sample")
    p.add_argument("--cases", type=int, default=1000, help="size of the sample")
    p.add_argument("--seed", type=int, default=0, help="which sample")
    p.add_argument("--format", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    p.add_argument("--guarded", action="store_true", help="with guard_narrow, as foveal runs its detectors")
    p.add_argument("--threads", type=int, default=1, help="torch threads")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    poisoned = mallopt is not None and mallopt(-6, 0x80) == 1  # M_PERTURB: new blocks hold the complement, 0x7f
    every = list(cases())
    chosen = every if args.full else random.Random(args.seed).sample(every, min(args.cases, len(every)))
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"# torch {torch.__version__}, {capability}, {args.format}, {len(chosen)} of {len(every)} layers", flush=True)
    print("# memory poisoned" if poisoned else "# this C library cannot poison memory: faults may pass unseen")
    start = time.perf_counter()
    failed = table(chosen, getattr(torch, args.format), args.guarded)
    print(f"\n{failed} of {len(chosen)} layers fail ({time.perf_counter() - start:.0f} s)")
    return int(failed > 0)


def table(chosen: list[Case], dtype: torch.dtype, guarded: bool) -> int:
    """Runs and prints; returns how many layers failed."""
    ran: Counter[tuple[object, ...]] = Counter()
    bad: Counter[tuple[object, ...]] = Counter()
    maps: defaultdict[tuple[object, ...], set[str]] = defaultdict(set)
    rules: defaultdict[tuple[bool, ...], Counter[str]] = defaultdict(Counter)
    failed = 0
    for case in chosen:
        wrong, y = failures(case, dtype, guarded)
        failed += bool(wrong)
        small = torch.empty(0, 0, *case.size) if case.kind == "transposed" else y
        rule = rules[case.stride > 1, y.dim() == 4 and is_narrow(small), y.dim() == 4 and small.shape[-1] == 1]
        rule.update(["layers", *wrong])
        how = "depthwise" if case.groups == case.channels else f"groups {case.groups}"
        for name in QUANTITIES:
            row = (case.kind, name, case.kernel, case.stride, how, case.layout)
            ran[row] += 1
            if name in wrong:
                bad[row] += 1
                maps[row].add("x".join(map(str, case.size)) + "->" + "x".join(map(str, y.shape[2:])))
    for row in sorted(bad, key=str):
        kind, name, kernel, stride, how, layout = row
        which = f"{kind:10s} {name:15s} kernel {kernel} stride {stride} {how:9s} channels {layout:5s}"
        print(f"{which} {bad[row]:4d} of {ran[row]:4d}: {' '.join(sorted(maps[row]))}")
    print("\nstride > 1  small map narrow  one cell wide    layers  " + "  ".join(QUANTITIES))
    for rule, count in sorted(rules.items()):
        counts = "  ".join(f"{count[q]:{len(q)}d}" for q in QUANTITIES)
        yes = ["yes" if is_so else "no" for is_so in rule]
        print(f"{yes[0]:10s}  {yes[1]:16s}  {yes[2]:13s}  {count['layers']:8d}  {counts}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
