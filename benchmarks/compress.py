"""The fully connected layers of Fast R-CNN's VGG-16 head, full and with truncated SVD at the paper's ranks (1024, 256).

Random weights: the time does not depend on them. 2,000 proposals of one image, inference.
"""

from __future__ import annotations

import torch
from common import parser, race, setup

from foveal.parts.heads.roi import VGGTail


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--proposals", type=int, default=2000)
    args = setup(p)
    rows = torch.randn(args.proposals, 512, 7, 7).contiguous(memory_format=torch.channels_last)
    heads = {f"ranks {ranks}": VGGTail(ranks=ranks).trunk(512, (7, 7))[0].eval() for ranks in ((), (1024, 256))}
    for name, head in heads.items():
        print(f"{name}: {sum(w.numel() for w in head.parameters()):,} parameters")
    contenders = {name: torch.no_grad()(lambda head=head: head(rows)) for name, head in heads.items()}
    race("fc6 and fc7", contenders, rounds=args.rounds)


if __name__ == "__main__":
    main()
