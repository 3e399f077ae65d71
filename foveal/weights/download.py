"""Getting one file over the network: resumed where it was cut, checked by its hash, whole or not there at all.

A download in progress lies beside its place as ``NAME.part`` and stays there when it is cut, so that the next attempt
goes on from it. Only what has the right hash is renamed to ``NAME``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import FovealError
from ..files.aliases import OnProgress

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_TRIES = 5  # connections, each of which goes on where the one before was cut
_PAUSE = 1.0  # seconds before the second of them; each further pause is twice as long
# what a disk or a folder refuses; waiting does not help
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EIO}


class Cut(OSError):
    """The connection ended before the file did."""


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, place: Path, sha256: str, *, progress: OnProgress | None = None, by_hand: str = "") -> None:
    """The file of ``url`` at ``place``. ``sha256``: its hash, or the first digits of it.

    A cut connection is tried again from where it ended, also by the next call. Raises ``FovealError`` where the file
    cannot be had (``by_hand`` says what to do then), where another process is at it, and where its content is not what
    the hash says: what was downloaded is removed then.
    """
    part = place.with_name(place.name + ".part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _opened(part) as file:
            if place.is_file() and digest(place).startswith(sha256):
                return  # another process has brought it in the meantime
            resumed = _whole(url, file, progress)
            if not (found := digest(part)).startswith(sha256) and resumed:  # the file was exchanged in between
                file.truncate(0)
                _whole(url, file, progress)
                found = digest(part)
            if not found.startswith(sha256):
                part.unlink()
                raise FovealError(
                    f"is not {place.name}: its SHA-256 starts with {found[: max(8, len(sha256[:12]))]}, "
                    f"not {sha256[:12]}",
                    path=url,
                    fix="Try again, for the download is damaged or another file, and was removed",
                )
            os.fsync(file.fileno())
            os.replace(part, place)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _refused(error, url, place, part, by_hand) from error


def _whole(url: str, file: IO[bytes], progress: OnProgress | None) -> bool:
    """Everything behind what ``file`` holds already, in several connections where need be. Whether it held any."""
    began = file.seek(0, os.SEEK_END)
    for attempt in range(_TRIES):
        before = file.seek(0, os.SEEK_END)
        try:
            _connection(url, file, progress)
            return began > 0
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code < 500 or attempt == _TRIES - 1:
                raise
        except (OSError, http.client.HTTPException) as error:
            moved = file.seek(0, os.SEEK_END) > before
            if getattr(error, "errno", None) in _DISK or not moved or attempt == _TRIES - 1:
                raise
        time.sleep(_PAUSE * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _connection(url: str, file: IO[bytes], progress: OnProgress | None) -> None:
    """Appends what one connection gives. Raises :class:`Cut` where that is not all."""
    done = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "foveal"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        error.close()
        if _length(error.headers) == done:
            return  # all of it was here
        file.truncate(0)  # more than there is: of another file
        _connection(url, file, progress)
        return
    with answer:
        if done and not _goes_on(answer, done):
            file.truncate(0)
            done = 0
        rest = int(answer.headers.get("Content-Length") or 0)
        total = done + rest if rest else 0
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    file.flush()
    if done < total:
        raise Cut(f"the connection broke after {done} of {total} bytes")


def _goes_on(answer: Any, done: int) -> bool:
    """Whether a server sends what was asked for; one that knows no ranges sends everything."""
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
    return getattr(answer, "status", None) == 206 and found is not None and int(found[1]) == done


def _length(headers: Any) -> int | None:
    """Of ``Content-Range: bytes */LENGTH``, as a server says it that was asked for more than there is."""
    found = re.fullmatch(r"bytes \*/(\d+)", (headers.get("Content-Range") or "").strip())
    return int(found[1]) if found else None


@contextlib.contextmanager
def _opened(part: Path) -> Iterator[IO[bytes]]:
    """The file to append to, for this process alone: two downloads into one would mix. An empty one is not left.

    Raises ``FovealError`` where another process has it.
    """
    while True:
        with part.open("ab") as file:
            _lock(file, part)
            if not _lies_at(file, part):  # another process was done in between, and this is its finished file
                continue
            try:
                yield file
            finally:
                if _lies_at(file, part) and part.stat().st_size == 0:
                    part.unlink()
            return


def _lock(file: IO[bytes], part: Path) -> None:
    """It ends with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where a file that is open cannot be renamed either
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FovealError("is being fetched by another process", path=part, fix="Wait until that is done") from None
    except OSError:  # some network disks have no locks; what two downloads mixed does not have the right hash
        return


def _lies_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _refused(error: Exception, url: str, place: Path, part: Path, by_hand: str) -> FovealError:
    if isinstance(error, OSError) and error.errno in _DISK:
        fix = "Set FOVEAL_CACHE to a writable folder with enough space"
        return FovealError(f"cannot be written ({error.strerror})", path=place, fix=fix)
    reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
    here = part.stat().st_size if part.exists() else 0
    kept = f"The {here:,} bytes that came are kept: the same command goes on from there. " if here else ""
    return FovealError(f"could not be fetched from {url} ({reason})", path=place, fix=kept + by_hand)
