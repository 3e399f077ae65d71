"""Darknet's classification networks by name: one line of layers each, expanded to the text of a cfg.

``64-3`` is a convolution to 64 channels by filters of 3 x 3, ``64-3/2`` one of stride 2, ``mp`` a max-pooling of 2 x 2
and stride 2, ``mp/1`` one of stride 1; ``res64*8`` is eight times 32-1, 64-3 and the sum with what came before.
"""

from __future__ import annotations

import re

_DARKNET19 = (
    "32-3 mp 64-3 mp 128-3 64-1 128-3 mp 256-3 128-1 256-3 mp 512-3 256-1 512-3 256-1 512-3 mp "
    "1024-3 512-1 1024-3 512-1 1024-3"
)
_DARKNET53 = "32-3 64-3/2 res64*1 128-3/2 res128*2 256-3/2 res256*8 512-3/2 res512*8 1024-3/2 res1024*4"
_YOLO_V1 = (
    "64-7/2 mp 192-3 mp 128-1 256-3 256-1 512-3 mp 256-1 512-3 256-1 512-3 256-1 512-3 256-1 512-3 512-1 1024-3 mp "
    "512-1 1024-3 512-1 1024-3 1024-3 1024-3/2 1024-3 1024-3"
)
_TINY = "16-3 mp 32-3 mp 64-3 mp 128-3 mp 256-3 mp 512-3"

NETWORKS = {
    "darknet19": _DARKNET19,  # YOLOv2, table 6
    "darknet53": _DARKNET53,  # YOLOv3, table 1
    "yolov1": _YOLO_V1,  # YOLOv1, figure 3, with batch norm as the later files have it
    "yolov1-plain": _YOLO_V1,  # the same without, as the paper has it
    "yolov1-tiny": _TINY + " mp 1024-3 256-3",
    "yolov2-tiny": _TINY + " mp/1 1024-3",  # YOLOv3's tiny form has the same
}
_LAYER = re.compile(r"(?P<filters>\d+)-(?P<size>\d)(?:/(?P<stride>\d))?")
_RESIDUAL = re.compile(r"res(?P<filters>\d+)\*(?P<times>\d+)")


def network_cfg(name: str) -> str:
    """The text of a cfg with these layers (names: :data:`NETWORKS`)."""
    normed = not name.endswith("-plain")
    sections = ["[net]\nwidth=416\nheight=416\nchannels=3"]
    for word in NETWORKS[name].split():
        residual = _RESIDUAL.fullmatch(word)
        if residual:
            width = int(residual["filters"])
            block = [_convolution(width // 2, 1, 1, normed), _convolution(width, 3, 1, normed)]
            sections += [*block, "[shortcut]\nfrom=-3\nactivation=linear"] * int(residual["times"])
        elif word.startswith("mp"):
            sections.append(f"[maxpool]\nsize=2\nstride={1 if word.endswith('/1') else 2}")
        else:
            layer = _LAYER.fullmatch(word)
            assert layer is not None
            stride = int(layer["stride"] or 1)
            sections.append(_convolution(int(layer["filters"]), int(layer["size"]), stride, normed))
    return "\n\n".join(sections) + "\n"


def _convolution(filters: int, size: int, stride: int, normed: bool) -> str:
    norm = "batch_normalize=1\n" if normed else ""
    return f"[convolutional]\n{norm}filters={filters}\nsize={size}\nstride={stride}\npad=1\nactivation=leaky"
