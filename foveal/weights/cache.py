"""Published checkpoints by name: finding them in the cache, and fetching them when a person asks.

Nothing here touches the network but :func:`fetch` and :func:`fetch_url`. Every file is checked by its hash before it is
used.
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

__all__ = [
    "ALIASES",
    "PUBLISHED",
    "Published",
    "digest",
    "fetch",
    "fetch_url",
    "find_published",
    "is_alias",
    "is_offline",
    "is_published",
    "published_file",
    "published_files",
    "weights_folder",
]

TIMM = "timm/"  # before timm's own names


def is_alias(name: str) -> bool:
    """Whether ``name`` is a published detector's: an alias, its own name, or a preset that a file belongs to."""
    key = _resolve(name)
    return key is not None and PUBLISHED[key].is_detector


def is_published(name: str) -> bool:
    """Whether :func:`find` may know the name."""
    return _resolve(name) is not None or name.startswith(TIMM)


def find_published(name: str) -> Published:
    """The entry of an alias, a published name, a preset or ``timm/NAME``. Raises ``UsageError`` with the nearest."""
    if name.startswith(TIMM):
        from .timm_cards import timm_card

        return timm_card(name)
    key = _resolve(name)
    if key is None:
        known = [*ALIASES, *PUBLISHED]
        raise UsageError(
            f"no published checkpoint is called {name!r}", fix=nearest(name, known, "checkpoints", count=3)
        )
    return PUBLISHED[key]


def weights_folder() -> Path:
    """Where fetched files lie: ``FOVEAL_CACHE``, or ``foveal`` in the user's cache folder.

    A relative ``XDG_CACHE_HOME`` does not count, as its specification says. Raises :class:`FovealError` for a user
    without a home folder.
    """
    own = os.environ.get("FOVEAL_CACHE")
    try:
        if own:
            return Path(own).expanduser()
        folder = Path(os.environ.get("XDG_CACHE_HOME", "")).expanduser()
        return (folder if folder.is_absolute() else Path.home() / ".cache") / "foveal"
    except RuntimeError:  # pathlib's for a home that neither HOME nor the list of users knows
        fix = "Set FOVEAL_CACHE to the full path of a folder of yours"
        raise FovealError("no cache folder: the home folder is not known", where=own or "", fix=fix) from None


def is_offline() -> bool:
    """Whether ``FOVEAL_OFFLINE`` forbids the network."""
    return os.environ.get("FOVEAL_OFFLINE", "") not in ("", "0")


def published_file(name: str, cache: str | Path | None = None) -> Path:
    """The cached weights of a published checkpoint, checked. Raises ``FovealError`` that says how to get them."""
    return published_files(name, cache)[0]


def published_files(name: str, cache: str | Path | None = None) -> list[Path]:
    """All cached files of a published checkpoint, checked: the weights; of Darknet then the cfg and the names."""
    entry = find_published(name)
    found = []
    for part in entry.parts:
        fix = f"Run `foveal weights fetch {name}` ({entry.megabytes:.0f} MB). {_by_hand(part, _place(part, cache))}"
        found.append(_cached(part, cache, f"{name!r} ({part.file})", fix))
    return found


def fetch(
    name: str,
    cache: str | Path | None = None,
    *,
    progress: OnProgress | None = None,
    url: str | None = None,
    offline: bool = False,
) -> Path:
    """The weights of a published checkpoint, downloaded with all that belongs to them where they are not here yet.

    ``progress`` is called with bytes so far and in all; ``url``: another place to take the weights from; ``offline``:
    only what is in the cache. See :func:`foveal.weights.download.download` for what is resumed, refused and raised.
    """
    entry = find_published(name)
    if offline or is_offline():
        return published_file(name, cache)
    weights, *others = entry.parts
    place = _fetched(weights if url is None else Part(url, weights.sha256, weights.file), cache, progress)
    for part in others:
        _fetched(part, cache, progress)
    return place


def fetch_url(
    url: str,
    sha256: str | None,
    cache: str | Path | None = None,
    *,
    progress: OnProgress | None = None,
    offline: bool = False,
) -> Path:
    """A file that no table here knows, by its address. ``sha256``: its hash, or its first digits from eight on.

    Without it the file's name must end with them, as torchvision's do (``NAME-0123abcd.pth``). Raises ``UsageError``
    where nothing says what the file should be, else as :func:`fetch`.
    """
    try:
        file = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    except ValueError as error:
        raise UsageError(f"{url} is no address ({error})") from None
    if not re.fullmatch(r"[\w.+-]+", file) or file.startswith("."):
        raise UsageError(f"{url} does not end with the name of a file")
    if sha256 is None:
        told = re.search(r"-([0-9a-f]{8,64})\.\w+$", file)
        if told is None:
            raise UsageError("nothing says what this file should be", path=url, fix="Give its hash with --sha256")
        sha256 = told[1]
    sha256 = sha256.lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise UsageError(f"{sha256!r} is no SHA-256", where="--sha256", fix="Give 8 to 64 hexadecimal digits")
    stem, dot, suffix = file.rpartition(".")
    name = file if sha256[:8] in file else f"{stem or suffix}-{sha256[:8]}{dot}{suffix if stem else ''}"
    part = Part(url, sha256, name)  # two files of one name must not take each other's place
    if offline or is_offline():
        return _cached(part, cache, url, "Fetch it without --offline")
    return _fetched(part, cache, progress)


def _cached(part: Part, cache: str | Path | None, what: str, fix: str) -> Path:
    """Where a part lies, checked. Raises ``FovealError`` where it does not."""
    path = _place(part, cache)
    if not path.is_file():
        raise FovealError(f"{what} is not here yet", path=path, fix=fix)
    _check(path, part)
    return path


def _fetched(part: Part, cache: str | Path | None, progress: OnProgress | None) -> Path:
    path = _place(part, cache)
    if path.is_file():
        with contextlib.suppress(FovealError):  # a damaged one is fetched anew
            _check(path, part)
            return path
    download(part.url, path, part.sha256, progress=progress, by_hand=_by_hand(part, path))
    return path


def _check(path: Path, part: Part) -> None:
    found = digest(path)
    if not found.startswith(part.sha256):
        raise FovealError(
            f"is not {part.file}: its SHA-256 starts with {found[: min(12, len(part.sha256))]}, not {part.sha256[:12]}",
            path=path,
            fix="Delete it and fetch it again",
        )


def _resolve(name: str) -> str | None:
    name = ALIASES.get(name, name)
    if name in PUBLISHED:
        return name
    return next((entry.name for entry in PUBLISHED.values() if entry.preset == name), None)


def _place(part: Part, cache: str | Path | None) -> Path:
    return (weights_folder() if cache is None else Path(cache)) / part.file


def _by_hand(part: Part, path: Path) -> str:
    return f"Without a network: get {part.url} elsewhere and put it at {path}"
