"""timm's published checkpoints by timm's names, as the installed package describes them."""

from __future__ import annotations

import re
from typing import Any

from ..errors import FovealError, UsageError, nearest
from .catalogue import Published


def timm_card(name: str) -> Published:
    """The entry of ``timm/NAME``, such as ``timm/resnet50.a1_in1k`` (needs ``pip install foveal[timm]``).

    Raises ``UsageError`` for a name that timm does not know, with the nearest ones, and ``FovealError`` where timm
    has no file whose name ends with the digits of its hash.
    """
    timm_name = name.removeprefix("timm/")
    try:
        import timm
    except ImportError:
        raise UsageError("timm is not installed", fix="Run pip install 'foveal[timm]'") from None
    try:
        cfg: Any = timm.get_pretrained_cfg(timm_name, allow_unregistered=False)
    except RuntimeError:  # an unknown network, or an unknown tag of it
        cfg = None
    if cfg is None:
        fix = nearest(timm_name, timm.list_models(pretrained=True), count=3)
        fix = fix or "See timm.list_models(pretrained=True)"
        raise UsageError(f"{timm_name!r} is not one of timm's checkpoints", fix=fix)
    url = str(cfg.url or "")
    if not re.search(r"-[0-9a-f]{8,64}\.\w+$", url):
        where = f"https://huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else "timm's documentation"
        raise FovealError(
            f"timm has no file with a hash for {timm_name!r}",
            fix=f'Get it from {where} and give the file: \'backbone=Timm("{cfg.architecture}", weights="FILE")\'',
        )
    return Published(
        name,
        url,
        0.0,
        None,
        None,
        0,
        licence=str(cfg.license or ""),
        data=f"tag {cfg.tag}" if cfg.tag else "",
        source=str(cfg.origin_url or f"timm {timm.__version__}"),
    )
