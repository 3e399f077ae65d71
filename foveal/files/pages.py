"""What the HTML pages share: their style, templates, and images and data inside the page. No page needs a network."""

from __future__ import annotations

import base64
import io
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

import jinja2

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 1600  # pixels of the longer side of an embedded image


def template_text(name: str, package: str = "foveal.files") -> str:
    """A file of the ``templates`` of a package of foveal."""
    return (files(package) / "templates" / name).read_text(encoding="utf-8")


def page_style() -> str:
    """The CSS of every page: light and dark, from 360 pixels on."""
    return template_text("page.css")


def page_script() -> str:
    """The JavaScript of every page that builds elements: ``node``."""
    return template_text("node.js")


def page_environment() -> jinja2.Environment:
    """Templates whose values are all escaped."""
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


def data_uri(image: Image.Image, kind: Literal["png", "jpeg"], quality: int = 85) -> str:
    """An image as the address of itself, ``data:image/...``."""
    out = io.BytesIO()
    options: dict[str, Any] = {"quality": quality, "optimize": True} if kind == "jpeg" else {"compress_level": 6}
    image.save(out, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def reduced(image: Image.Image, longest: int = LONGEST) -> Image.Image:
    """The image, or a copy whose longer side has ``longest`` pixels."""
    if max(image.size) <= longest:
        return image
    scale = longest / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), reducing_gap=2.0)


def script_json(data: Any) -> str:
    """Data as JSON that may stand in a ``<script>``: no name in it ends the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
