"""``foveal models``. The list never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import print_notes, print_out, single

if TYPE_CHECKING:
    from ..assembly.detector import Spec
    from ..presets.catalogue import PublishedScore

START = """\
Start here:
  few images       pip install 'foveal[pretrained]', then: foveal train --data DATA --max-time 15m
  more time        foveal weights fetch accurate, then: foveal train accurate --data DATA --max-time 1h
  no weights       foveal train faster_rcnn_mini --data DATA --max-time 30m
  data like COCO   faster_rcnn_r50_fpn_v2 or retinanet_r50_fpn_v2, on GPUs
  speed            ssdlite320_mobilenet_v3_large or faster_rcnn_mobilenet_v3_large_320_fpn
"""


def models(
    name: Annotated[str | None, typer.Argument(help="Name of a preset, a run or a cfg.", show_default=False)] = None,
    classes: Annotated[
        int, typer.Option("--classes", min=1, help="Number of classes that the parameters are counted for.")
    ] = 80,
) -> None:
    """Lists the presets by family: parameters, published scores and weights. Of one preset, model or Darknet cfg,
    every setting.

    \b
    Example:
      foveal models
      foveal models faster_rcnn_mini
    """
    if name is None:
        _list(classes)
    elif Path(name).exists():
        _show_model(name, classes)
    else:
        _show(name, classes)


def _list(classes: int) -> None:
    from ..presets.catalogue import CARDS, FAMILIES

    print_out(START)
    width = max(map(len, CARDS))
    for family, cards in FAMILIES.items():
        print_out(f"{family:<{width + 2}}  {'parameters':>11}  {'published':<9}")
        for name, card in cards.items():
            score = _short(card.published[0]) if card.published else "-"
            weights = f" [weights: {_weights(name)}]" if _weights(name) else ""
            print_out(f"  {name:<{width}}  {card.parameters(classes):>11,}  {score:<9}  {card.about}{weights}")
        print_out("")
    print_out(
        f"Parameters are counted for {classes} classes. Published scores are COCO AP, or VOC mAP where it says so."
    )
    print_out("`foveal weights fetch NAME` downloads weights; `foveal models PRESET` shows all settings of a preset.")


def _show_model(name: str, classes: int) -> None:
    """A spec that is in a file or folder; of a setting of many lines the first."""
    import torch

    from ..checkpoints.initial import find_spec

    spec, _ = find_spec(name)
    with torch.device("meta"):
        count = sum(p.numel() for p in spec.build([str(k) for k in range(classes)]).parameters())
    print_out(f"{name}: {type(spec).__name__}, {count:,} parameters with {classes} classes")
    print_notes(spec)
    _print_settings(spec)


def _print_settings(spec: Spec) -> None:
    from ..presets.catalogue import setting_rows

    print_out("\nSettings, to be replaced on the command line as key=value:")
    for path, value, text in setting_rows(spec):
        first, more, _ = value.partition("\\n")
        print_out(f"  {path}={first}" + ("..." if more else "") + (f"  # {text}" if text else ""))


def _show(name: str, classes: int) -> None:
    from .. import presets
    from ..presets.catalogue import CARDS, comments

    spec = presets.get(name)
    print_out(f"{name}: {type(spec).__name__}, {CARDS[name].parameters(classes):,} parameters with {classes} classes")
    if text := comments().get(name):
        print_out(text)
    for score in CARDS[name].published:
        print_out(f"Published: {score.value:.1f} {score.protocol} ({score.source})")
    if _weights(name):
        print_out(f"Published weights: {_weights(name)}")
    _print_settings(spec)


def _short(score: PublishedScore) -> str:
    """``37.0``, ``77.2 VOC``, ``58.0 AR``."""
    kind = "VOC" if "mAP" in score.protocol else "AR" if "AR@" in score.protocol else ""
    return f"{score.value:.1f} {kind}".rstrip()


def _weights(preset: str) -> str | None:
    from ..weights.cache import PUBLISHED

    return next((name for name, entry in PUBLISHED.items() if entry.preset == preset), None)


app = single(models)
