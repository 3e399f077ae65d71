"""Checkpoints that timm and torchvision publish, by their names, as the installed packages describe them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import FovealError, UsageError, nearest
from .catalogue import Published

TIMM, TORCHVISION = "timm/", "torchvision/"  # the prefixes of their names
Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and std
_HALF: Pixels = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_HASHED = re.compile(r"-[0-9a-f]{8,64}\.\w+$")  # the end of the name of a file that can be checked


def timm_card(name: str) -> Published:
    """The entry of ``timm/NAME``, such as ``timm/resnet50.a1_in1k`` (needs ``pip install foveal[timm]``).

    Raises ``UsageError`` for a name that timm does not know, with the nearest ones, and ``FovealError`` where timm
    has no file whose name ends with the digits of its hash.
    """
    timm_name = name.removeprefix(TIMM)
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
    if not cfg.has_weights:
        raise FovealError(f"timm has no weights for {timm_name!r}", fix="See timm.list_models(pretrained=True)")
    url = str(cfg.url or "")
    if not _HASHED.search(url):
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


def torchvision_card(name: str) -> Published:
    """The entry of ``torchvision/NAME`` or ``torchvision/NAME.TAG`` (``torchvision/resnet34.IMAGENET1K_V1``).

    Without a tag it is the first that torchvision published for the network. Raises ``UsageError`` for a network or a
    tag that torchvision does not know, with the nearest ones.
    """
    entry = _torchvision_entry(name)
    meta: dict[str, Any] = entry.meta
    return Published(
        name,
        str(entry.url),
        float(meta.get("_file_size", 0.0)),
        None,
        meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1"),
        int(meta.get("num_params", 0)),
        data=f"tag {entry.name}",
        licence="terms of the data may apply; the authors of torchvision (BSD-3-Clause) name none for the file",
        source="https://docs.pytorch.org/vision/stable/models.html",
    )


def timm_pixels(name: str) -> Pixels | None:
    """(mean, std) of the pixels that timm's network ``NAME`` or ``timm/NAME`` expects, RGB on the scale 0..1.

    None where timm is missing or does not know the network.
    """
    try:
        import timm

        cfg: Any = timm.get_pretrained_cfg(name.removeprefix(TIMM), allow_unregistered=False)
    except (ImportError, RuntimeError):
        cfg = None
    return None if cfg is None else (_rgb(cfg.mean), _rgb(cfg.std))


def timm_file_pixels(name: str, file: str) -> tuple[Pixels | None, bool]:
    """(mean, std) of the pixels that a file of timm's network ``NAME`` was trained on, and whether the file says so.

    By the ``config.json`` beside it, which timm writes for the model hub, or by the name of one of timm's checkpoints
    in its path. Else those of timm's description of the network, which are sure where all its checkpoints agree.
    """
    path, network = Path(file), name.partition(".")[0]
    with suppress(OSError, ValueError, KeyError, TypeError):
        described = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
        described = described.get("pretrained_cfg", described)
        return (_rgb(described["mean"]), _rgb(described["std"])), True
    try:
        import timm

        names = [one for one in timm.list_pretrained(f"{network}.*") if one.partition(".")[0] == network]
        cards: dict[str, Any] = {one: timm.get_pretrained_cfg(one) for one in names}
    except (ImportError, RuntimeError):
        return None, False
    for one in sorted(cards, key=len, reverse=True):
        published = str(cards[one].url or "").rsplit("/", 1)[-1]
        if one in file or published == path.name:
            return (_rgb(cards[one].mean), _rgb(cards[one].std)), True
    return timm_pixels(name), len({(_rgb(cfg.mean), _rgb(cfg.std)) for cfg in cards.values()}) < 2


def torchvision_pixels(name: str) -> Pixels | None:
    """(mean, std) of the pixels that the layers of ``NAME`` or ``torchvision/NAME.TAG`` expect, RGB on the scale 0..1.

    None where torchvision does not know the network.
    """
    try:
        entry = _torchvision_entry(name)
    except UsageError:
        return None
    if entry.url.rsplit("/", 1)[1].startswith(("googlenet", "inception")):
        return _HALF  # torchvision's forward converts ImageNet's pixels to these before the first layer
    rule = entry.transforms()
    return _rgb(rule.mean), _rgb(rule.std)


def _torchvision_entry(name: str) -> Any:
    """torchvision's entry of ``NAME`` or ``NAME.TAG``. Raises ``UsageError``."""
    from torchvision import models  # late: doubles the time of `import torch`

    network, _, tag = name.removeprefix(TORCHVISION).partition(".")
    names = models.list_models(module=models)
    if network not in names:
        fix = nearest(network, names, "networks", count=3) or "See torchvision.models.list_models()"
        raise UsageError(f"{network!r} is not one of torchvision's classification networks", fix=fix)
    known: dict[str, Any] = {entry.name: entry for entry in models.get_model_weights(network)}
    if tag and tag not in known:
        raise UsageError(f"torchvision has no weights {tag!r} of {network}", fix=f"Use one of {', '.join(known)}")
    return known[tag or next(iter(known))]


def _rgb(values: Iterable[float]) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in values)
    return r, g, b
