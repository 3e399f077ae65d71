"""Published checkpoints by name: where they are, what they reach, and fetching them when a person asks.

Nothing here touches the network but :func:`fetch`. Every file is checked against the hash in its name
before it is used.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from ..errors import FovealError, UsageError

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0: unknown)


@dataclass(frozen=True)
class Published:
    """One file of torchvision's model zoo (its documentation is the source of the figures)."""

    name: str
    url: str
    megabytes: float  # 2^20 bytes
    preset: str | None  # what it is with us; None: a backbone
    score: float | None  # COCO val2017 box AP, or ImageNet top-1, in percent; None: it has no classifier
    parameters: int
    zero_eps: bool = False  # its frozen norms were trained with an epsilon of 0
    caffe_pixels: bool = False  # it wants pixels from 0 to 255 less Caffe's mean, not ImageNet's normalisation

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def sha256(self) -> str:
        """The first digits of the file's SHA-256, which torchvision puts at the end of its name."""
        return self.file.rsplit("-", 1)[1].partition(".")[0]

    @property
    def bytes(self) -> float:
        return self.megabytes * 2**20

    @property
    def metric(self) -> str:
        return "ImageNet top-1" if self.preset is None else "COCO box AP"


def _entry(
    name: str,
    file: str,
    megabytes: float,
    preset: str | None,
    score: float | None,
    parameters: int,
    zero_eps: bool = False,
    caffe_pixels: bool = False,
) -> Published:
    url = f"https://download.pytorch.org/models/{file}.pth"
    return Published(name, url, megabytes, preset, score, parameters, zero_eps, caffe_pixels)


_TABLE = (
    _entry(
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_coco-258fb6c6",
        159.743,
        "faster_rcnn_r50_fpn",
        37.0,
        41755286,
        True,
    ),
    _entry(
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_resnet50_fpn_v2_coco-dd69338a",
        167.104,
        "faster_rcnn_r50_fpn_v2",
        46.7,
        43712278,
    ),
    _entry(
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7",
        74.239,
        "faster_rcnn_mobilenet_v3_large_fpn",
        32.8,
        19386354,
    ),
    _entry(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9",
        74.239,
        "faster_rcnn_mobilenet_v3_large_320_fpn",
        22.8,
        19386354,
    ),
    # masks: 34.6 and 41.8 AP
    _entry(
        "maskrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn_coco-bf2d0c1e",
        169.84,
        "mask_rcnn_r50_fpn",
        37.9,
        44401393,
        True,
    ),
    _entry(
        "maskrcnn_resnet50_fpn_v2",
        "maskrcnn_resnet50_fpn_v2_coco-73cbd019",
        177.219,
        "mask_rcnn_r50_fpn_v2",
        47.4,
        46359409,
    ),
    _entry(
        "retinanet_resnet50_fpn",
        "retinanet_resnet50_fpn_coco-eeacb38b",
        130.267,
        "retinanet_r50_fpn",
        36.4,
        34014999,
        True,
    ),
    _entry(
        "retinanet_resnet50_fpn_v2",
        "retinanet_resnet50_fpn_v2_coco-5905b1c5",
        146.037,
        "retinanet_r50_fpn_v2",
        41.5,
        38198935,
    ),
    _entry("fcos_resnet50_fpn", "fcos_resnet50_fpn_coco-99b0c9b7", 123.608, "fcos_r50_fpn", 39.2, 32269600),
    _entry("ssd300_vgg16", "ssd300_vgg16_coco-b556d3b4", 135.988, "ssd300_vgg16", 25.1, 35641826),
    _entry(
        "ssdlite320_mobilenet_v3_large",
        "ssdlite320_mobilenet_v3_large_coco-a79551df",
        13.418,
        "ssdlite320_mobilenet_v3_large",
        21.3,
        3440060,
    ),
    _entry("resnet50", "resnet50-0676ba61", 97.781, None, 76.130, 25557032),
    _entry("resnet50_v2", "resnet50-11ad3fa6", 97.79, None, 80.858, 25557032),
    _entry("resnet101", "resnet101-63fe2227", 170.511, None, 77.374, 44549160),
    _entry("resnext101_32x8d", "resnext101_32x8d-8ba56ff5", 339.586, None, 79.312, 88791336),
    _entry("vgg16", "vgg16-397923af", 527.796, None, 71.592, 138357544),
    # Caffe's VGG-16, for the pixels of SSD's presets
    _entry("vgg16_features", "vgg16_features-amdegroot-88682ab5", 527.802, None, None, 138357544, caffe_pixels=True),
    _entry("mobilenet_v3_large", "mobilenet_v3_large-8738ca79", 21.114, None, 74.042, 5483032),
    _entry("squeezenet1_0", "squeezenet1_0-b66bff10", 4.778, None, 58.092, 1248424),
)

PUBLISHED: dict[str, Published] = {entry.name: entry for entry in _TABLE}
ALIASES = {"accurate": "fasterrcnn_resnet50_fpn_v2", "fast": "fasterrcnn_mobilenet_v3_large_320_fpn"}


def is_alias(name: str) -> bool:
    """Whether ``name`` is a published detector's: an alias, torchvision's name, or a preset that a file belongs to."""
    key = _resolve(name)
    return key is not None and PUBLISHED[key].preset is not None


def find(name: str) -> Published:
    """The entry of an alias, of torchvision's name or of a preset. Raises ``UsageError`` with the nearest name."""
    key = _resolve(name)
    if key is None:
        near = difflib.get_close_matches(name, [*ALIASES, *PUBLISHED], 1)
        fix = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join([*ALIASES, *PUBLISHED])}."
        raise UsageError(f"no published checkpoint is called {name!r}", fix=fix)
    return PUBLISHED[key]


def cache_folder() -> Path:
    """Where fetched files lie: ``FOVEAL_CACHE``, or ``foveal`` in the user's cache folder."""
    own = os.environ.get("FOVEAL_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "foveal"


def published_file(name: str, cache: str | Path | None = None) -> Path:
    """The cached file of a published checkpoint, checked. Raises ``FovealError`` that says how to get it."""
    entry = find(name)
    path = _place(entry, cache)
    if not path.is_file():
        raise FovealError(f"{name!r} ({entry.file}) is not here yet", path=path, fix=_how_to_get(entry, path, name))
    _check(path, entry)
    return path


def fetch(
    name: str, cache: str | Path | None = None, *, progress: Progress | None = None, url: str | None = None
) -> Path:
    """The file of a published checkpoint, downloaded where it is not in the cache yet.

    It is written under a temporary name, checked by its hash and then renamed, so a broken download is never used.
    ``progress`` is called with bytes so far and in all; ``url``: another place to take it from. Raises ``FovealError``
    where there is no network, with what to do by hand.
    """
    entry = find(name)
    path = _place(entry, cache)
    if path.is_file():
        with contextlib.suppress(FovealError):  # a damaged one is fetched anew
            _check(path, entry)
            return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = NamedTemporaryFile(dir=path.parent, prefix=path.name + ".", suffix=".part", delete=False)  # noqa: SIM115
    except OSError as error:
        raise FovealError(
            f"cannot be written ({error.strerror})", path=path, fix="Set FOVEAL_CACHE to a folder of yours."
        ) from error
    part = Path(handle.name)
    try:
        with handle:
            _download(url or entry.url, handle.write, progress)
        _check(part, entry, shown=url or entry.url)
        part.chmod(0o644)  # temporary files start out private
        os.replace(part, path)
    except (urllib.error.URLError, OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
        raise FovealError(
            f"could not be fetched from {url or entry.url} ({reason})", path=path, fix=_by_hand(entry, path)
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, write: Callable[[bytes], int], progress: Progress | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "foveal"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        while chunk := answer.read(_CHUNK):
            write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if done < total:
        raise urllib.error.URLError(f"the connection broke after {done} of {total} bytes")


def _check(path: Path, entry: Published, shown: str = "") -> None:
    found = digest(path)
    if not found.startswith(entry.sha256):
        raise FovealError(
            f"is not {entry.file}: its SHA-256 starts with {found[: len(entry.sha256)]}, not {entry.sha256}",
            path=shown or path,
            fix="Delete it and fetch it again." if not shown else "The download is damaged or another file.",
        )


def _resolve(name: str) -> str | None:
    name = ALIASES.get(name, name)
    if name in PUBLISHED:
        return name
    return next((entry.name for entry in _TABLE if entry.preset == name), None)


def _place(entry: Published, cache: str | Path | None) -> Path:
    return (cache_folder() if cache is None else Path(cache)) / entry.file


def _how_to_get(entry: Published, path: Path, name: str) -> str:
    return f"Run `foveal weights fetch {name}` ({entry.megabytes:.0f} MB). {_by_hand(entry, path)}"


def _by_hand(entry: Published, path: Path) -> str:
    return f"Without a network: get {entry.url} elsewhere and put it at {path}"
