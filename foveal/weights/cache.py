"""Published checkpoints by name: the cache of downloaded files, and their download on request.

Only :func:`fetch` and :func:`fetch_url` access the network. Every file is checked by its hash before it is used.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import FovealError, UsageError, nearest
from ..files.aliases import OnProgress
from .catalogue import ALIASES, PUBLISHED, Part, Published
from .download import digest, download
from .library_cards import TIMM, TORCHVISION, timm_card, torchvision_card

__all__ = [
    "ALIASES",
    "PUBLISHED",
    "TIMM",
    "TORCHVISION",
    "Published",
    "digest",
    "fetch",
    "fetch_url",
    "find_published",
    "is_alias",
    "is_cached",
    "is_offline",
    "is_published",
    "published_file",
    "published_files",
    "weights_folder",
]


def is_alias(name: str) -> bool:
    """Whether ``name`` is that of a published detector: an alias, its own name, or the preset of a published file."""
    key = _resolve(name)
    return key is not None and PUBLISHED[key].is_detector


def is_published(name: str) -> bool:
    """Whether :func:`find_published` may know the name."""
    return _resolve(name) is not None or name.startswith((TIMM, TORCHVISION))


def find_published(name: str) -> Published:
    """The entry of an alias, a published name, a preset, ``timm/NAME`` or ``torchvision/NAME``.

    Raises ``UsageError`` with the nearest names.
    """
    if name.startswith((TIMM, TORCHVISION)):
        return timm_card(name) if name.startswith(TIMM) else torchvision_card(name)
    key = _resolve(name)
    if key is None:
        known = [*ALIASES, *PUBLISHED]
        fix = nearest(name, known, "checkpoints", count=3)
        raise UsageError(f"no published checkpoint is called {name!r}", fix=fix)
    return PUBLISHED[key]


def weights_folder() -> Path:
    """The folder of fetched files: ``FOVEAL_CACHE``, or ``foveal`` in the user's cache folder.

    A relative ``XDG_CACHE_HOME`` does not count, as its specification says. Raises :class:`FovealError` for a user
    without a home folder.
    """
    cache = os.environ.get("FOVEAL_CACHE")
    try:
        if cache:
            return Path(cache).expanduser()
        folder = Path(os.environ.get("XDG_CACHE_HOME", "")).expanduser()
        return (folder if folder.is_absolute() else Path.home() / ".cache") / "foveal"
    except RuntimeError:  # pathlib's for a home that neither HOME nor the list of users knows
        fix = "Set FOVEAL_CACHE to the full path of a writable folder"
        raise FovealError("no cache folder: the home folder is not known", where=cache or "", fix=fix) from None


def is_offline() -> bool:
    """Whether ``FOVEAL_OFFLINE`` forbids the network."""
    return os.environ.get("FOVEAL_OFFLINE", "") not in ("", "0")


def is_cached(name: str, cache: str | Path | None = None) -> bool:
    """Whether the weights of a published checkpoint were fetched; the file is not checked."""
    return _path(find_published(name).weights, cache).is_file()


def published_file(name: str, cache: str | Path | None = None) -> Path:
    """The cached weights of a published checkpoint, checked. Raises ``FovealError`` with the way to get them."""
    return published_files(name, cache)[0]


def published_files(name: str, cache: str | Path | None = None) -> list[Path]:
    """All cached files of a published checkpoint, checked: the weights; for Darknet then the cfg and the names."""
    entry = find_published(name)
    files = []
    for part in entry.parts:
        size = f" ({entry.megabytes:.0f} MB)" if entry.megabytes else ""
        fix = f"Run `foveal weights fetch {name}`{size}. {_by_hand(part, _path(part, cache))}"
        files.append(_cached(part, cache, f"{name!r} ({part.file})", fix))
    return files


def fetch(
    name: str,
    cache: str | Path | None = None,
    *,
    progress: OnProgress | None = None,
    url: str | None = None,
    offline: bool = False,
) -> Path:
    """The weights of a published checkpoint, downloaded with its other files where they are not in the cache.

    ``progress`` is called with the bytes so far and the total; ``url``: another address of the weights; ``offline``:
    use the cache alone. See :func:`foveal.weights.download.download` for resumption and errors.
    """
    entry = find_published(name)
    if offline or is_offline():
        return published_file(name, cache)
    weights, *others = entry.parts
    path = _fetched(weights if url is None else Part(url, weights.sha256, weights.file), cache, progress)
    for part in others:
        _fetched(part, cache, progress)
    return path


def fetch_url(
    url: str,
    sha256: str | None,
    cache: str | Path | None = None,
    *,
    progress: OnProgress | None = None,
    offline: bool = False,
) -> Path:
    """A file that is not in the catalogue, by its address. ``sha256``: its hash, or at least the first eight digits.

    Without it the file's name must end with them, as torchvision's do (``NAME-0123abcd.pth``). Raises ``UsageError``
    where the hash is unknown, otherwise as :func:`fetch`.
    """
    try:
        file = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    except ValueError as error:
        raise UsageError(f"{url} is not an address ({error})") from None
    if not re.fullmatch(r"[\w.+-]+", file) or file.startswith("."):
        raise UsageError(f"{url} does not end with the name of a file")
    if sha256 is None:
        in_name = re.search(r"-([0-9a-f]{8,64})\.\w+$", file)
        if in_name is None:
            raise UsageError(
                "the hash of this file is unknown", path=url, fix="Give the SHA-256 that its source publishes: --sha256"
            )
        sha256 = in_name[1]
    sha256 = sha256.lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise UsageError(f"{sha256!r} is not a SHA-256", where="--sha256", fix="Give 8 to 64 hexadecimal digits")
    stem, dot, suffix = file.rpartition(".")
    name = file if sha256[:8] in file else f"{stem or suffix}-{sha256[:8]}{dot}{suffix if stem else ''}"
    part = Part(url, sha256, name)  # two files of one name must not overwrite each other
    if offline or is_offline():
        return _cached(part, cache, url, "Fetch it without --offline")
    return _fetched(part, cache, progress)


def _cached(part: Part, cache: str | Path | None, what: str, fix: str) -> Path:
    """The path of a cached part, checked. Raises ``FovealError`` where it is missing."""
    path = _path(part, cache)
    if not path.is_file():
        raise FovealError(f"{what} is not in the cache yet", path=path, fix=fix)
    _check(path, part)
    return path


def _fetched(part: Part, cache: str | Path | None, progress: OnProgress | None) -> Path:
    path = _path(part, cache)
    if path.is_file():
        with contextlib.suppress(FovealError):  # a damaged one is fetched again
            _check(path, part)
            return path
    download(part.url, path, part.sha256, progress=progress, by_hand=_by_hand(part, path))
    return path


def _check(path: Path, part: Part) -> None:
    actual = digest(path)
    if not actual.startswith(part.sha256):
        raise FovealError(
            f"is not {part.file}: its SHA-256 starts with {actual[: len(part.sha256[:12])]}, not {part.sha256[:12]}",
            path=path,
            fix="Delete it and fetch it again",
        )


def _resolve(name: str) -> str | None:
    name = ALIASES.get(name, name)
    if name in PUBLISHED:
        return name
    return next((entry.name for entry in PUBLISHED.values() if entry.preset == name), None)


def _path(part: Part, cache: str | Path | None) -> Path:
    return (weights_folder() if cache is None else Path(cache)) / part.file


def _by_hand(part: Part, path: Path) -> str:
    return f"Without a network: download {part.url} elsewhere and copy it to {path}"
