"""``foveal VERB``: finds the verb's module, runs it, and turns what goes wrong into one line and an exit status.

Nothing but the standard library is imported before the verb is known, so that ``foveal --help`` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from ..errors import FovealError, UsageError, nearest
from ..runtime.interrupt import Terminated, raise_terminated

DONE, REFUSED, USAGE, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143
# what a disk or a system can refuse; another OSError without a file's name is a mistake of ours
NOT_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES}

VERBS = {
    "demo": "draw a dataset, train a small detector on it, score it, write a report: minutes on two CPU cores",
    "train": "train a detector on your data",
    "eval": "score a detector, or the detections of any tool, by a named protocol",
    "predict": "detect objects in images, folders, globs: drawings and JSON",
    "serve": "a detector behind HTTP: a page in the browser, and JSON for programs",
    "inspect": "look inside a detector: where each object is lost, on a set or on one page an image",
    "doctor": "check a dataset before training",
    "data": "make, convert and split datasets",
    "check": "check a detector on your data: encode/decode round trip, then overfit a few images",
    "anchors": "find the anchors that fit a dataset best (YOLO)",
    "proposals": "compute, cache and evaluate proposals (recall)",
    "export": "write a detector as one ONNX file that runs without torch, with a proof that it answers the same",
    "weights": "list, fetch, import and export weights",
    "models": "list the presets: parameters, published scores, settings",
    "compare": "compare runs: scores, settings that differ, curves",
}

HELP = """\
Usage: foveal VERB [ARGUMENTS] [key=value ...]

Object detectors from one small set of parts: train, evaluate, compare and explain them with the same commands.

{verbs}

Each verb explains itself and shows an example: foveal VERB --help
What a bug report should quote (versions, machine, extras): foveal --version --json

Example:
  foveal demo --out runs/demo
  foveal doctor my-photos
  foveal train faster_rcnn_mini --data my-photos --out runs/first fit.lr=2e-4 'rpn.cls_loss=Focal(gamma=1.5)'
  foveal predict runs/first photo.jpg --out drawings

Exit status: 0 done, 1 input refused, 2 wrong usage, 3 a bug of ours, 130 interrupted, 143 ended by SIGTERM.
"""


def run() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not end the run
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, raise_terminated)
    status = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more can be written, nor at exit
        if not isinstance(error, BrokenPipeError) and status == DONE:  # else the reader (head, less) has seen enough
            status = _say(f"standard output: {error.strerror}", REFUSED)
    sys.exit(status)


def main(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status."""
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            return _help(DONE if arguments else USAGE)
        if arguments[0] in ("-V", "--version"):
            return _version(arguments[1:])
        return _run(arguments[0], arguments[1:])
    except UsageError as error:
        return _say(str(error), USAGE)
    except FovealError as error:
        return _say(str(error), REFUSED)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except Terminated:
        return _say("ended by SIGTERM", TERMINATED)
    except BrokenPipeError:
        return DONE
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            more = "Allow more with ulimit -n 4096, or try fewer --workers"
            return _say(f"{error.filename or 'the process'}: {error.strerror}. {more}", REFUSED)
        if error.filename is not None:
            return _say(f"{error.filename2 or error.filename}: {error.strerror}", REFUSED)
        return _say(str(error.strerror), REFUSED) if error.errno in NOT_OURS else _bug()
    except MemoryError:
        return _say("out of memory. Try a smaller batch or smaller images", REFUSED)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's; naming it by class would import torch
            return _say("the device is out of memory. Try a smaller --batch or input.short", REFUSED)
        if "DefaultCPUAllocator" in str(error):  # torch's RuntimeError where the machine's memory is full
            return _say("out of memory. Try a smaller --batch or a smaller input", REFUSED)
        if "DataLoader worker" in str(error):  # raised by torch's signal handler, wherever the main thread was
            return _say("a process that loads images died; perhaps memory ran out. Try fewer --workers", REFUSED)
        return _bug()


def _help(status: int) -> int:
    width = max(map(len, VERBS))
    sys.stdout.write(HELP.format(verbs="\n".join(f"  {name:<{width}}  {text}" for name, text in VERBS.items())))
    return status


def _version(options: Sequence[str]) -> int:
    from .. import __version__

    if options == ["--json"]:
        import json

        from ..runtime.installation import describe_installation

        sys.stdout.write(json.dumps(describe_installation(), indent=2) + "\n")
    elif options:
        raise UsageError(f"foveal --version takes --json, not {' '.join(options)!r}")
    else:
        sys.stdout.write(f"foveal {__version__}\n")
    return DONE


def _run(verb: str, arguments: Sequence[str]) -> int:
    if verb not in VERBS:
        raise UsageError(f"there is no verb {verb!r}", fix=nearest(verb, VERBS, "verbs"))
    module = importlib.import_module(f".{verb}", __package__)
    from .common import invoke

    return invoke(module.app, f"foveal {verb}", arguments)


def _say(text: str, status: int) -> int:
    from ..files.text import visible

    sys.stderr.write(f"foveal: {visible(' '.join(text.split()))}\n")
    return status


def _bug() -> int:
    traceback.print_exc()
    return _say(
        "this is a bug of foveal. Please report it with the lines above, the command that you gave, and what "
        "foveal --version --json prints",
        BUG,
    )
