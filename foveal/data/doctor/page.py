"""Renders the report of ``foveal doctor`` as one HTML page without scripts or links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import Environment
from markupsafe import Markup

from ..records.findings import printable

if TYPE_CHECKING:
    from .report import Report

SIDE_NAMES = ("under 4", "4-8", "8-16", "16-32", "32-64", "64-128", "128-256", "256-512", "512-1024", "over 1024")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ r.path }}: data report</title>
<style>
:root { --ink:#1c2430; --soft:#5d6877; --line:#dfe4ea; --bar:#3b76c4 }
body { font:15px/1.5 system-ui,sans-serif; color:var(--ink); background:#fff; max-width:64rem;
  margin:2rem auto; padding:0 1rem }
h1 { font-size:1.4rem; overflow-wrap:anywhere }
h2 { font-size:1.1rem; margin-top:2.2rem }
table { border-collapse:collapse; width:100% }
th,td { text-align:left; padding:.3rem .8rem .3rem 0; border-bottom:1px solid var(--line);
  vertical-align:top; overflow-wrap:anywhere }
.n { text-align:right; font-variant-numeric:tabular-nums }
.soft { color:var(--soft) }
.error { color:#b3261e } .warning { color:#9a6700 } .note { color:#4b6584 }
summary { cursor:pointer; padding:.3rem 0 }
code { font-size:.9em; overflow-wrap:anywhere }
figure { margin:0 }
svg text { font:12px system-ui,sans-serif; fill:var(--ink) }
svg rect { fill:var(--bar) }
</style></head><body>
<h1>{{ r.path }}</h1>
<p>{{ r.format|upper }}, {{ r.images }} images, {{ r.objects }} objects, {{ r.classes|length }} classes.
{% for severity in ("error", "warning", "note") -%}
<b class="{{ severity }}">{{ r.counts[severity] }} {{ severity }}s</b>{{ ", " if not loop.last else "." }}
{% endfor %}{% if not r.decoded %}Images were not decoded.{% endif %}</p>
<h2>Splits</h2>
<table><tr><th>split</th>{% for head in heads %}<th class="n">{{ head }}</th>{% endfor %}</tr>
{% for s in r.splits %}<tr><td>{{ s.name or "all" }}</td>
{% for n in [s.images, s.empty, s.objects, s.difficult, s.crowd] + s.sizes|list %}<td class="n">{{ n }}</td>{% endfor %}
</tr>{% endfor %}</table><p class="soft">Small is below 32 x 32 pixels, large from 96 x 96, by area.</p>
{% for s in r.splits %}<h2>Objects by class{% if s.name %}: {{ s.name }}{% endif %}</h2>{{ class_bars(s) }}
{% endfor %}
<h2>Size of the objects</h2><p class="soft">Square root of the area, in pixels of the image.</p>{{ side_bars }}
<h2>Size of the images</h2>
<table><tr><th>width x height</th><th class="n">images</th></tr>
{% for w, h, n in r.image_sizes[:20] %}<tr><td>{{ w }} x {{ h }}</td><td class="n">{{ n }}</td></tr>
{% endfor %}</table>
{% if r.image_sizes|length > 20 %}<p class="soft">and {{ r.image_sizes|length - 20 }} other sizes</p>{% endif %}
<h2>Findings</h2>
{% for severity, code, same in kinds %}<details{% if severity == "error" %} open{% endif %}>
<summary><b class="{{ severity }}">{{ severity }} {{ code }}</b> <span class="soft">{{ same|length }}</span></summary>
<table>{% for f in same %}<tr><td><code>{{ f.path }}</code>{% if f.where %}<br>{{ f.where }}{% endif %}</td>
<td>{{ f.message }}{% if f.fix %}<br><span class="soft">{{ f.fix }}</span>{% endif %}</td></tr>
{% endfor %}</table></details>
{% else %}<p>Nothing to report.</p>{% endfor %}
</body></html>
"""


def page(report: Report) -> str:
    """The page, without scripts or links. All text from the dataset is escaped."""
    kinds: dict[tuple[str, str], list[object]] = {}
    for finding in report.findings:
        kinds.setdefault((finding.severity, finding.code), []).append(finding)
    environment = Environment(autoescape=True)
    text = environment.from_string(_PAGE).render(
        r=report,
        heads=("images", "without objects", "objects", "difficult", "crowd", "small", "medium", "large"),
        kinds=[(severity, code, same) for (severity, code), same in kinds.items()],
        side_bars=bars(SIDE_NAMES, report.box_sides),
        class_bars=lambda s: bars([c.name for c in s.classes], [c.objects for c in s.classes]),
    )
    return printable(text)


def bars(names: Sequence[str], values: Sequence[int]) -> Markup:
    """A horizontal bar chart as inline SVG, a row a name."""
    top = max(values, default=0) or 1
    label = min(260, 24 + 7 * max(map(len, names), default=0))
    rows = []
    for k, (name, value) in enumerate(zip(names, values, strict=True)):
        y, width = 22 * k, (660 - label) * value / top
        rows.append(
            Markup(
                '<text x="{}" y="{}" text-anchor="end">{}</text><rect x="{}" y="{}" width="{:.1f}" height="14" rx="2"/>'
                '<text x="{:.1f}" y="{}">{}</text>'
            ).format(label - 8, y + 15, name, label, y + 4, width, label + width + 6, y + 15, value)
        )
    body = Markup("").join(rows)
    return Markup('<figure><svg viewBox="0 0 740 {}" width="100%" role="img">{}</svg></figure>').format(
        22 * len(rows), body
    )
