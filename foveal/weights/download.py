"""Downloads one file: resumed where it was interrupted, checked by its hash, and written atomically.

A download in progress is ``NAME.part`` beside its target and stays there when it is interrupted, so that the next
attempt resumes it. Only a file with the right hash is renamed to ``NAME``.
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
_TRIES = 5  # connections, each of which resumes where the one before was interrupted
_PAUSE = 1.0  # seconds before the second of them; each further pause is twice as long
# errors of a disk or a folder, for which waiting does not help
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EIO}


class Cut(OSError):
    """The connection ended before the file did."""


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, target: Path, sha256: str, *, progress: OnProgress | None = None, by_hand: str = "") -> None:
    """Downloads ``url`` to ``target``. ``sha256``: its hash, or the first digits of it.

    An interrupted connection is resumed, also by the next call. Raises ``FovealError`` where the file cannot be
    downloaded (with ``by_hand`` as the way to get it), where another process downloads it, and where its hash is
    another: then the download is removed.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _opened(part) as file:
            if target.is_file() and digest(target).startswith(sha256):
                return  # another process has downloaded it in the meantime
            resumed = _download_rest(url, file, progress)
            if not (actual := digest(part)).startswith(sha256) and resumed:  # the file was replaced in between
                file.truncate(0)
                _download_rest(url, file, progress)
                actual = digest(part)
            if not actual.startswith(sha256):
                part.unlink()
                raise FovealError(
                    f"is not {target.name}: its SHA-256 starts with {actual[: max(8, len(sha256[:12]))]}, "
                    f"not {sha256[:12]}",
                    path=url,
                    fix="Check the address and try again; the damaged or different file was deleted",
                )
            os.fsync(file.fileno())
            os.replace(part, target)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _refused(error, url, target, part, by_hand) from error


def _download_rest(url: str, file: IO[bytes], progress: OnProgress | None) -> bool:
    """Appends what ``file`` lacks, in several connections if necessary. Returns whether it was not empty before."""
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
    """Appends what one connection sends. Raises :class:`Cut` where that is not all."""
    done = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "foveal"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        error.close()
        if _length(error.headers) == done:
            return  # the file was complete
        file.truncate(0)  # longer than the file: it is part of another one
        _connection(url, file, progress)
        return
    with answer:
        if done and not _resumes(answer, done):
            file.truncate(0)
            done = 0
        remaining = int(answer.headers.get("Content-Length") or 0)
        total = done + remaining if remaining else 0
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    file.flush()
    if done < total:
        raise Cut(f"the connection broke after {done} of {total} bytes")


def _resumes(answer: Any, done: int) -> bool:
    """Whether a server sends the requested range; one without ranges sends everything."""
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
    return getattr(answer, "status", None) == 206 and match is not None and int(match[1]) == done


def _length(headers: Any) -> int | None:
    """LENGTH of ``Content-Range: bytes */LENGTH``, a server's answer to a request beyond the end of a file."""
    match = re.fullmatch(r"bytes \*/(\d+)", (headers.get("Content-Range") or "").strip())
    return int(match[1]) if match else None


@contextlib.contextmanager
def _opened(part: Path) -> Iterator[IO[bytes]]:
    """The file to append to, locked for this process, as two downloads would mix. An empty file is removed at the end.

    Raises ``FovealError`` where another process has it.
    """
    while True:
        with part.open("ab") as file:
            _lock(file, part)
            if not _is_at(file, part):  # another process has finished in between, and this is its file
                continue
            try:
                yield file
            finally:
                if _is_at(file, part) and part.stat().st_size == 0:
                    part.unlink()
            return


def _lock(file: IO[bytes], part: Path) -> None:
    """Locks the file for this process, until it ends in whatever way."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where a file that is open cannot be renamed either
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FovealError("is being fetched by another process", path=part, fix="Wait until it has finished") from None
    except OSError:  # some network disks have no locks; a mix of two downloads fails the check of the hash
        return


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _refused(error: Exception, url: str, target: Path, part: Path, by_hand: str) -> FovealError:
    if isinstance(error, OSError) and error.errno in _DISK:
        fix = "Set FOVEAL_CACHE to a writable folder with enough space"
        return FovealError(f"cannot be written ({error.strerror})", path=target, fix=fix)
    reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
    size = part.stat().st_size if part.exists() else 0
    resume = f"Run the same command again to resume after {size:,} bytes. " if size else ""
    return FovealError(f"could not be fetched from {url} ({reason})", path=target, fix=resume + by_hand)
