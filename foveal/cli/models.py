"""``foveal models``."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import say, single


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
    from ..report.catalogue import comments, parameters, settings
    from ..report.run import table

    said = comments()
    if name is None:
        rows = [("preset", "parameters", "COCO AP")]
        rows += [(n, f"{parameters(presets.get(n), classes):,}", _published(n)) for n in presets.names()]
        say(table(rows))
        say(f"Parameters with {classes} classes. COCO AP: of the published weights (`foveal weights list`).")
        say("foveal models NAME tells more.")
        return
    spec = presets.get(name)
    say(f"{name}: {type(spec).__name__}, {parameters(spec, classes):,} parameters with {classes} classes")
    if said.get(name):
        say(said[name])
    if _published(name) != "-":
        say(f"Published weights: COCO AP {_published(name)}")
    say("\nSettings, to be replaced on the command line as key=value:")
    for path, value, text in settings(spec):
        say(f"  {path}={value}" + (f"  # {text}" if text else ""))


def _published(name: str) -> str:
    from ..weights.published import PUBLISHED

    return next((f"{entry.score:.1f}" for entry in PUBLISHED.values() if entry.preset == name), "-")


app = single(models)
