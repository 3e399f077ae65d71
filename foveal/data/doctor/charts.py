"""Bar charts and figures of a data report."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from .pictures import Picture

SIDE_NAMES = ("under 4", "4-8", "8-16", "16-32", "32-64", "64-128", "128-256", "256-512", "512-1024", "over 1024")


def figure(picture: Picture) -> Markup:
    """A picture with its words."""
    image = Markup('<img src="{}" alt="{}">').format(picture.src, picture.title) if picture.src else ""
    words = Markup("<figcaption><b>{}</b><br>{}</figcaption>").format(picture.title, picture.text)
    return Markup("<figure>{}{}</figure>").format(image, words)


def bars(names: Sequence[str], values: Sequence[int]) -> Markup:
    """A horizontal bar chart as inline SVG, a row a name."""
    top = max(values, default=0) or 1
    label = min(190, 24 + 7 * max(map(len, names), default=0))
    rows = []
    for k, (name, value) in enumerate(zip(names, values, strict=True)):
        y, width = 22 * k, (430 - label) * value / top
        rows.append(
            Markup(
                '<text x="{}" y="{}" text-anchor="end">{}</text><rect x="{}" y="{}" width="{:.1f}" height="14" rx="2"/>'
                '<text x="{:.1f}" y="{}">{}</text>'
            ).format(label - 8, y + 15, name, label, y + 4, width, label + width + 6, y + 15, value)
        )
    body = Markup("").join(rows)
    return Markup('<figure><svg class="bars" viewBox="0 0 480 {}" role="img">{}</svg></figure>').format(
        22 * len(names), body
    )
