"""The files of the page in the browser."""

from __future__ import annotations

from ..files.pages import page_script, page_style, template_text

_KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_SCRIPTS = ("formats.js", "serve.js")


def page_files() -> dict[str, tuple[bytes, str]]:
    """Path -> content and media type."""
    texts = {"/": template_text("serve.html", "foveal.serving"), "/static/serve.css": _style()}
    texts["/static/node.js"] = page_script()
    texts |= {f"/static/{name}": template_text(name, "foveal.serving") for name in _SCRIPTS}
    ends = {path: "html" if path == "/" else path.rpartition(".")[2] for path in texts}
    return {path: (text.encode(), _KINDS[ends[path]]) for path, text in texts.items()}


def _style() -> str:
    return page_style() + template_text("serve.css", "foveal.serving")
