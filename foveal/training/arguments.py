"""The settings of a training run, written once: signature, command line and help are made from these fields."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast

from ..config.fields import describe
from ..data.records.subsets import Others
from ..errors import UsageError, nearest
from ..files.aliases import PathLike

# What a type does not express: the smallest value, and how the command line reads a field.
AT_LEAST_0, AT_LEAST_1 = {"min": 0}, {"min": 1}
DURATION = {"duration": True, "metavar": "TIME"}  # seconds; on the command line 90s, 30m or 1h30m

# not under "arguments" of run.json: they are in its spec, seed and "resumed"
NOT_RECORDED = ("overrides", "parts", "seeds", "accept")
ACCEPTABLE = ("data", "val", "proposals", "recipe", "batch", "seed", "precision")


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """All settings of :func:`foveal.train`. The comment of a field is its help, on the command line too."""

    # Dataset to train on; several are joined.
    data: PathLike | Sequence[PathLike]
    # Settings of the preset to replace, as in "fit.lr=0.01"; `foveal models PRESET` lists them.
    overrides: Sequence[str] = field(default=(), metadata={"argument": "[key=value ...]"})
    # Dataset to validate on, if it is not a split of the training data; several are joined.
    val: PathLike | Sequence[PathLike] | None = None
    # Names of the splits to train and to validate on (keys: train, val).
    split: Mapping[str, str] | None = field(default=None, metadata={"metavar": "train=A,val=B"})
    # Names of the classes to learn, in this order; default: all classes of the data.
    classes: Sequence[str] | None = field(default=None, metadata={"metavar": "A,B,..."})
    # What objects of other classes become: background, ignored regions, or a reason to skip their image.
    others: Others = "background"
    # What the numbers of the boxes are, if not what the format says: corners, top-left, centers or ranges; pixels,
    # fractions, percent or the frame 640x480; yx (y before x); from-1 (class numbers from 1). A resumed run keeps it.
    convention: str | None = field(default=None, metadata={"metavar": "A,B,..."})
    # Folder of the images, if they are not beside the annotations.
    images: PathLike | None = None
    # Run folder; default: runs/PRESET, numbered.
    out: PathLike | None = None
    # Number of epochs; overrides the recipe's.
    epochs: int | None = field(default=None, metadata=AT_LEAST_1)
    # Images per iteration, over all processes; overrides the recipe's and scales the learning rate.
    batch: int | None = field(default=None, metadata=AT_LEAST_1)
    # Random seed of initialization, order and augmentation.
    seed: int = field(default=0, metadata=AT_LEAST_0)
    # Number of runs, with seeds counting up from the first; reports mean and standard deviation.
    seeds: int = field(default=1, metadata=AT_LEAST_1)
    # Detector or backbone to start from: a run, checkpoint, alias or weights file.
    weights: PathLike | None = field(default=None, metadata={"metavar": "MODEL"})
    # File of `foveal proposals --out`, for a detector that takes external proposals; several are joined.
    proposals: PathLike | Sequence[PathLike] | None = None
    # Parts of one's own that overrides or the spec of a run name; on the command line their module or .py file.
    parts: Sequence[type] = field(default=(), metadata={"modules": True, "metavar": "MODULE"})
    # Resume the run in the run folder; more --epochs extend it.
    resume: bool = False
    # Changes that a resumed run accepts: data, val, proposals, recipe (fit.*), batch, seed, precision.
    accept: Sequence[str] | None = field(default=None, metadata={"metavar": "NAME,..."})
    # Device to train on: auto, cpu, cuda or cuda:N.
    device: str = "auto"
    # Number of processes on this machine, one a GPU; default: 1, or what torchrun started.
    devices: int | None = field(default=None, metadata=AT_LEAST_1)
    # Floating-point precision; auto: the faster of 32 and bf16, timed on a CPU with bf16 arithmetic; bf16 on a GPU.
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    # Number of processes that load images; default: from the number of CPU cores.
    workers: int | None = field(default=None, metadata=AT_LEAST_0)
    # Limit of the wall time, as in 30m, validation included; without epochs it alone sets the length of the run.
    max_time: float | None = field(default=None, metadata=DURATION)
    # Use only the first N images of each dataset.
    limit: int | None = field(default=None, metadata=AT_LEAST_1)
    # Time between checkpoints within an epoch.
    save_every: float = field(default=300.0, metadata=DURATION)
    # Show progress on standard error.
    progress: bool = True
    # Print details too, and progress every 10 seconds where standard error is no terminal.
    verbose: bool = False
    # Write TensorBoard events, where tensorboard is installed.
    tensorboard: bool = True
    # Number of validation images drawn into the TensorBoard events at each validation: their objects, the proposals of
    # a two-stage detector, and the detections.
    log_images: int = field(default=0, metadata=AT_LEAST_0)

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, least = getattr(self, setting.name), setting.metadata.get("min")
            if least is not None and value is not None and value < least:
                raise UsageError(f"{setting.name} is {value}, expected at least {least}", fix=f"Raise {setting.name}")
        for name in self.accept or ():
            if name not in ACCEPTABLE:
                raise UsageError(f"{name!r} is unknown", where="--accept", fix=nearest(name, ACCEPTABLE, "names"))
        if self.accept and not self.resume:
            raise UsageError("is for a run that is resumed", where="--accept", fix="Add --resume, or leave it out")

    @property
    def folder(self) -> Path:
        """The run folder. ``out`` has been chosen by the time anybody asks."""
        assert self.out is not None
        return Path(self.out)

    def recorded(self) -> dict[str, Any]:
        """What ``run.json`` stores of the call."""
        return {name: value for name, value in vars(self).items() if name not in NOT_RECORDED}


# ------------------------------------------------------------------------------------- a function of them
_P = ParamSpec("_P")
_First = TypeVar("_First", contravariant=True)
_Arguments = TypeVar("_Arguments")
_Result = TypeVar("_Result", covariant=True)


class WithFields(Protocol[_P, _First, _Result]):
    """A function of one argument that may be left out, and of the fields of a dataclass."""

    def __call__(self, first: _First = ..., /, *args: _P.args, **kwargs: _P.kwargs) -> _Result: ...


def with_fields(
    arguments: Callable[_P, _Arguments],
) -> Callable[[Callable[[_First, _Arguments], _Result]], WithFields[_P, _First, _Result]]:
    """Turns ``f(first, arguments)`` into ``f(first=None, **fields of arguments)``, for people, editors, type checkers.

    ``arguments`` is a keyword-only dataclass. Type checkers take the signature from it; ``inspect.signature`` and
    ``help()`` show its fields with their types, defaults and comments.
    """

    def decorate(function: Callable[[_First, _Arguments], _Result]) -> WithFields[_P, _First, _Result]:
        signature = _signature(function, arguments)
        name_of_first = next(iter(signature.parameters))

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> _Result:
            unknown = [name for name in options if name not in signature.parameters]
            if unknown:
                hint = nearest(unknown[0], signature.parameters)
                raise TypeError(f"{function.__name__}() has no argument {unknown[0]!r}. {hint}".removesuffix(". "))
            bound = signature.bind(*args, **options).arguments  # a missing one is named as Python does it
            first = bound.pop(name_of_first, None)
            return function(first, arguments(**bound))  # type: ignore[call-arg]

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__doc__ = f"{inspect.getdoc(function)}\n\nSettings\n--------\n{_listing(arguments)}"
        return cast("WithFields[_P, _First, _Result]", call)

    return decorate


def _signature(function: Callable[..., Any], arguments: Any) -> inspect.Signature:
    own = inspect.signature(function)
    first = next(iter(own.parameters.values())).replace(default=None)
    options = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
            annotation=f.type,
        )
        for f in fields(arguments)
    ]
    return inspect.Signature([first, *options], return_annotation=own.return_annotation)


def _listing(arguments: Any) -> str:
    """``name: type = default``, and the help below it, a field after the other."""
    lines: list[str] = []
    types = {f.name: (f.type, f.metadata) for f in fields(arguments)}
    for row in describe(arguments):
        kind, metadata = types[row.name]
        default = f" = {row.default}" if row.default else ""
        unit = " In seconds." if metadata.get("duration") else ""
        lines += [f"{row.name}: {kind}{default}", f"    {row.help}{unit}"]
    return "\n".join(lines)
