"""``foveal models``."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from ..errors import UsageError
from .common import progress, say, single


def models(
    name: Annotated[str | None, typer.Argument(help="A preset.", show_default=False)] = None,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Classes to count parameters for.")] = 80,
) -> None:
    """The presets: what they are, their parameters, what they reach; of one of them, every setting with its help.

    \b
    Example:
      foveal models
      foveal models faster_rcnn_mini
    """
    from .. import presets
    from ..presets.catalogue import comments, parameters, settings
    from ..report.summary import table

    said = comments()
    if name is None:
        rows = [("preset", "parameters", "published", "weights")]
        with progress("counting parameters") as update:
            every = presets.names()
            for i, n in enumerate(every):
                update(i, len(every))
                try:
                    count = f"{parameters(presets.get(n), classes):,}"
                except UsageError as error:  # its networks come with a package that is not there
                    count = error.message
                rows.append((n, count, _score(said.get(n, "")), _weights(n) or "-"))
        say(table(rows))
        say(f"Parameters with {classes} classes. Published: COCO AP, or VOC mAP where it says so.")
        say("Weights: what `foveal weights fetch` gets. foveal models NAME tells more.")
        return
    spec = presets.get(name)
    say(f"{name}: {type(spec).__name__}, {parameters(spec, classes):,} parameters with {classes} classes")
    if said.get(name):
        say(said[name])
    if _weights(name):
        say(f"Published weights: {_weights(name)}")
    say("\nSettings, to be replaced on the command line as key=value:")
    for path, value, text in settings(spec):
        say(f"  {path}={value}" + (f"  # {text}" if text else ""))


def _score(comment: str) -> str:
    """The first published score that a preset's comment names."""
    found = re.search(r"(\d\d\.\d) (AP|mAP)\b", comment)
    return "-" if found is None else found[1] + (" VOC" if found[2] == "mAP" else "")


def _weights(preset: str) -> str | None:
    from ..weights.cache import PUBLISHED

    return next((name for name, entry in PUBLISHED.items() if entry.preset == preset), None)


app = single(models)
