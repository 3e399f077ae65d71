"""Makes every call that reaches the disk fail in turn, and looks at what a command of ``foveal`` leaves and says.

    python benchmarks/faults.py                              # everything
    python benchmarks/faults.py train resume --sample 40     # 40 faults of each of two commands, drawn by --seed

A command runs on tiny inputs as often as there are calls (open, write, fsync, rename, link, mkdir, unlink below its
folder), and each time another one fails: with "no space left", "input/output error" or "permission denied". Then

- the status is 1, and the message one line with the file and the cause: no traceback, no "bug"; or it is 0, and the
  result is that without a fault, or a warning says what is missing;
- no file is half-written under its final name, and the checkpoints that were there can be loaded;
- the next command (for training: with ``--resume``) ends with the same bits as a run without a fault.

Exit status 1 where one of these does not hold. The commands run in processes forked from this one, which has loaded
the package already: a fault takes some tenths of a second.
"""

from __future__ import annotations

import argparse
import collections
import errno
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import failing_calls
from fault_scenarios import Scenario, scenarios, serve
from forked import Ended, Process, load_everything

ERRORS = {
    "open": ("EIO", "EACCES"),
    "create": ("ENOSPC", "EIO", "EACCES"),
    "write": ("ENOSPC", "EIO"),
    "fsync": ("ENOSPC", "EIO"),
    "rename": ("ENOSPC", "EIO", "EACCES"),
    "link": ("ENOSPC", "EIO", "EACCES"),
    "mkdir": ("ENOSPC", "EIO", "EACCES"),
    "unlink": ("EIO", "EACCES"),
}
SECONDS = 120.0  # until a command is taken to hang
TEMPORARY = re.compile(r"(^\.|\.part$)")  # names of files in the making
TIMES = ("elapsed", "validation", "log_bytes", "meter")  # of state.json
CAUSES = (
    *("no space left", "input/output error", "permission denied"),
    "stored file cannot be read",  # safetensors calls every error of opening a missing file
    "could not be read for a moment",  # when it was hashed; it can be read again
)


@dataclass(frozen=True)
class Fault:
    """Call ``nth`` of a kind fails; ``forever``: and all after it, as on a disk that stays full."""

    kind: str
    nth: int
    error: str
    forever: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.nth} {self.error}{' and all after' if self.forever else ''}"


# ---------------------------------------------------------------------------------------------- processes
def forked(call: Callable[[], Any], folder: Path, logs: Path) -> Ended:
    """Runs a function in a process of its own, in ``folder``, and waits for its end."""
    return Process(call, folder, logs).finish(SECONDS)


def command(words: Sequence[str]) -> Callable[[], None]:
    def call() -> None:
        from foveal.cli.main import run

        sys.argv = ["foveal", *words]
        run()

    return call


# ------------------------------------------------------------------------------------------------- checks
def content(path: Path) -> str:
    """A digest of a file without the times in it; for a page that shows times, whether it is whole."""
    data = path.read_bytes()
    if path.suffix == ".html":
        return "a page" if data.rstrip().endswith(b"</html>") else "a part of a page"
    if path.name == "metrics.jsonl":
        rows = [json.loads(line) for line in data.splitlines()]
        data = json.dumps([{k: v for k, v in row.items() if "second" not in k} for row in rows]).encode()
    elif path.name in ("state.json", "run.json", "results.json"):
        value = json.loads(data)
        if path.name == "run.json":
            return "a record"
        data = json.dumps({k: v for k, v in value.items() if k not in TIMES}, sort_keys=True).encode()
    elif path.name == "SHA256SUMS":
        return "a list"
    elif path.suffix == ".json":
        value = json.loads(data)
        if isinstance(value, dict):
            data = json.dumps({k: v for k, v in value.items() if "second" not in k and k != "made"}).encode()
    elif path.suffix == ".safetensors":
        import safetensors

        with safetensors.safe_open(path, "np"):
            pass
    return hashlib.sha256(data).hexdigest()


def files(folder: Path, outputs: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in outputs:
        top = folder / name
        if top.is_file():
            found[name] = top
        found |= {str(p.relative_to(folder)): p for p in sorted(top.rglob("*")) if p.is_file() and not p.is_symlink()}
    return {
        name: path
        for name, path in found.items()
        if not {"last", "best"} & set(Path(name).parts)  # links, or their copies
    }


def complete(name: str) -> bool:
    """Whether a file has its final name, and is not in a folder in the making."""
    return not any(TEMPORARY.search(part) for part in Path(name).parts)


def outcome(folder: Path, outputs: Sequence[str]) -> dict[str, str]:
    found = {name: path for name, path in files(folder, outputs).items() if complete(name)}
    found = {name: path for name, path in found.items() if not name.startswith("cache/proposals")}  # in any order
    return {name: content(path) for name, path in found.items() if name.rsplit("/", 1)[-1] != "stamp"}


def told(ended: Ended) -> bool:
    """Whether a command that went on says what is missing."""
    return (
        re.search("warning|skipped|unreadable|cannot be read|not written|cannot|could not|note:", ended.err + ended.out)
        is not None
    )


class Look:
    """What is wrong after a fault."""

    def __init__(self, scenario: Scenario, folder: Path, whole: dict[str, str], before: int) -> None:
        self.scenario, self.folder, self.whole, self.before = scenario, folder, whole, before

    def message(self, ended: Ended, path: str, fault: Fault) -> list[str]:
        text = ended.err.strip()
        if ended.status == -1:
            return ["hangs"]
        wrong = []
        if "Traceback" in text or "bug of foveal" in text or ended.status not in self._refusals(fault):
            wrong.append(f"status {ended.status}, traceback or bug")
        if ended.status in (1, 2):
            last = text.splitlines()[-1] if text else ""
            if self.scenario.finds_errors and told(ended):
                return wrong
            if not last.startswith("foveal: "):
                wrong.append("no line of ours")
            if not any(cause in text.lower() for cause in CAUSES):
                wrong.append("the cause is not named")
            if not self._names(last, path):
                wrong.append("the file is not named")
        return wrong

    @staticmethod
    def _refusals(fault: Fault) -> tuple[int, ...]:
        """Where a file of the data cannot be read, a run that is resumed has other data: wrong usage (2)."""
        return (0, 1, 2) if fault.kind == "open" else (0, 1)

    def _names(self, line: str, path: str) -> bool:
        """Whether a message names the file, or a folder that it is in, below the working folder."""
        inside = Path(path).relative_to(self.folder)
        tops = [part for part in inside.parts if not TEMPORARY.search(part)]
        return any(part in line for part in tops) or any(name in line for name in self.scenario.outputs)

    def silent(self, ended: Ended) -> list[str]:
        """Status 0: everything is there, or something is said."""
        if ended.status:
            return []
        try:
            now = outcome(self.folder, self.scenario.outputs)
        except Exception as error:
            return [f"status 0 with a damaged file: {error}"]
        differs = [name for name, value in self.whole.items() if now.get(name) != value]
        return [f"status 0, and silently another {differs[0]}"] if differs and not told(ended) else []

    def half_written(self, ended: Ended) -> list[str]:
        wrong = []
        other = told(ended) and (ended.status == 0 or self.scenario.finds_errors)
        for name, path in files(self.folder, self.scenario.outputs).items():
            if not complete(name):
                continue
            try:
                value = content(path)
            except Exception as error:
                if path.name != "metrics.jsonl":  # the last line of a log may be cut; readers know that
                    wrong.append(f"half-written {name}: {error}")
                continue
            if name in self.whole and value != self.whole[name] and not (other or self.scenario.trains):
                wrong.append(f"another {name}")
        return wrong + self._checkpoints()

    def _checkpoints(self) -> list[str]:
        from foveal.checkpoints import folder

        place = self.folder / "run" / "checkpoints"
        if not place.is_dir():
            return ["the checkpoints are gone"] if self.before >= 0 and self.scenario.resumed else []
        wrong = []
        for path in sorted(place.glob("step-*")):
            try:
                folder.read(path)
            except Exception as error:
                wrong.append(f"a damaged checkpoint: {error}")
        newest = max((int(p.name[5:]) for p in place.glob("step-*")), default=-1)
        old = max((int(p.name[10:]) for p in place.glob(".old-step-*")), default=-1)  # in the place of a moment
        if self.scenario.resumed and max(newest, old) < self.before:
            wrong.append(f"the newest checkpoint is of step {newest}, before {self.before}")
        return wrong

    def left_over(self, fault: Fault) -> list[str]:
        """Files in the making that nobody removes. Removing them may have failed itself."""
        if fault.kind in ("unlink", "open") or fault.forever:
            return []
        names = [n for n in files(self.folder, self.scenario.outputs) if not complete(n)]
        keeps = (".part",) if self.scenario.name == "fetch" else ()  # a download is continued
        return [f"left over: {name}" for name in names if not name.endswith(keeps or ("//",))][:1]

    def again(self, first: Ended, ended: Ended) -> list[str]:
        """The next command ends as without a fault, unless the first one went on and said with what."""
        if not first.status and self.scenario.makes_new:
            return []
        if ended.status:
            return [f"the next command fails: {ended.err.strip().splitlines()[-1:]}"]
        try:
            now = outcome(self.folder, self.scenario.outputs)
        except Exception as error:
            return [f"the next command leaves a damaged file: {error}"]
        if not first.status and told(first):
            return []
        differs = [name for name, value in self.whole.items() if now.get(name) != value]
        return [f"the next command ends with another {differs[0]}"] if differs else []


# --------------------------------------------------------------------------------------------------- sweep
class Sweep:
    """All faults of one scenario."""

    def __init__(self, scenario: Scenario, root: Path) -> None:
        self.scenario, self.folder, self.logs, self.template = scenario, root / "work", root / "logs", root / "template"
        for path in (self.logs, self.template):
            path.mkdir(parents=True)
        self.calls = failing_calls.FailingCalls(self.folder)
        done = forked(scenario.prepare, self.template, self.logs)
        if done.status:
            raise SystemExit(f"{scenario.name} cannot be prepared: {done.err}")
        self._fresh()
        checkpoints = self.folder / "run" / "checkpoints"
        self.before = max((int(p.name[5:]) for p in checkpoints.glob("step-*")), default=-1)
        self.calls.arm()
        began = time.monotonic()
        done = forked(command(scenario.command), self.folder, self.logs)
        self.seconds, self.counts = time.monotonic() - began, self.calls.counts
        self.calls.disarm()
        if done.status:
            raise SystemExit(f"{scenario.name} fails without a fault: {done.err}")
        self.whole = outcome(self.folder, scenario.outputs)

    def faults(self) -> list[Fault]:
        listed = [
            Fault(kind, nth, error)
            for kind in failing_calls.KINDS
            for error in ERRORS[kind]
            for nth in range(1, self.counts[kind] + 1)
        ]
        listed += [Fault("write", nth, "ENOSPC", forever=True) for nth in range(1, self.counts["write"] + 1)]
        return listed

    def run(self, fault: Fault) -> tuple[list[str], str, str, str]:
        """What is wrong after a fault; the path, what was said, and the last line of the next command."""
        self._fresh()
        self.calls.arm(fault.kind, fault.nth, getattr(errno, fault.error), forever=fault.forever)
        ended = forked(command(self.scenario.command), self.folder, self.logs)
        self.calls.disarm()
        path = self.calls.path
        if not path:
            return [], "", "", ""
        look = Look(self.scenario, self.folder, self.whole, self.before)
        wrong = look.message(ended, path, fault) + look.silent(ended) + look.half_written(ended) + look.left_over(fault)
        again = forked(command(self.scenario.after), self.folder, self.logs)
        wrong += look.again(ended, again)
        said = ended.err.strip().splitlines()[-1:] if ended.status else ["(status 0)"]
        relative = str(Path(path).relative_to(self.folder))
        return wrong, relative, (said or [""])[0], ended.err

    def _fresh(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.template, self.folder, symlinks=True)


def general(text: str) -> str:
    """A path or a message without its numbers."""
    return re.sub(r"\d+", "N", re.sub(r"[0-9a-f]{12,}", "H", text))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="commands; default: all")
    parser.add_argument("--sample", type=int, help="faults of each command; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--messages", action="store_true", help="print every kind of message")
    parser.add_argument("--kinds", nargs="*", help="kinds of calls; default: all")
    options = parser.parse_args()
    if reason := failing_calls.reason_not_to():
        print(reason)
        return 77
    failing_calls.restart_with_library()
    load_everything()
    known = scenarios(serve())
    lost = tried = 0
    for name in options.names or known:
        with tempfile.TemporaryDirectory(prefix="foveal-faults-") as root:
            os.environ["FOVEAL_CACHE"] = str(Path(root) / "work" / "cache")
            failures, count = sweep(Sweep(known[name], Path(root)), options)
        lost, tried = lost + failures, tried + count
    print(f"{tried - lost} of {tried} faults survived")
    return 1 if lost else 0


def sweep(found: Sweep, options: argparse.Namespace) -> tuple[int, int]:
    faults = [fault for fault in found.faults() if not options.kinds or fault.kind in options.kinds]
    if options.sample is not None:
        faults = random.Random(options.seed).sample(faults, min(options.sample, len(faults)))
    bad: dict[tuple[str, ...], list[tuple[Fault, str, str, str]]] = collections.defaultdict(list)
    messages: collections.Counter[tuple[str, str, str]] = collections.Counter()
    began, failures = time.monotonic(), 0
    for fault in faults:
        wrong, path, said, whole = found.run(fault)
        messages[fault.kind, general(path), general(said)] += 1
        if wrong:
            failures += 1
            bad[(fault.kind, general(path), *(general(w) for w in wrong))].append((fault, path, said, whole))
    calls = ", ".join(f"{count} {kind}" for kind, count in found.counts.items() if count)
    print(f"{found.scenario.name}: {len(faults) - failures} of {len(faults)} faults survived ({calls})", end="; ")
    print(f"{found.seconds:.1f} s a run, {time.monotonic() - began:.0f} s in all", flush=True)
    for key, cases in bad.items():
        fault, path, said, whole = cases[0]
        print(f"  {len(cases)} x {fault}: {path}: {'; '.join(key[2:])}\n      said: {said}", flush=True)
        print("      | " + "\n      | ".join(whole.strip().splitlines()[-8:-1]))
    if options.messages:
        for (kind, path, said), count in sorted(messages.items()):
            print(f"  [{count}] {kind} {path}: {said}")
    return failures, len(faults)


if __name__ == "__main__":
    sys.exit(main())
