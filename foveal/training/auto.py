"""The automatic choice of ``foveal train`` without a preset: facts, decisions, and the plan that they make."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from .. import presets
from ..assembly.detector import Spec
from ..config.overrides import override
from ..data.records.findings import counted
from ..errors import UsageError
from ..runtime import launchers
from ..runtime.precision import find_device
from .arguments import TrainArguments
from .auto_decisions import SIZES, DataFacts, Decision, Request, choose_detector, decide, warnings
from .auto_facts import data_facts, machine_facts, missing_weights
from .datasets import read_sets

AUTO = "auto"


@dataclass(frozen=True)
class AutoPlan:
    """What the automatic choice decided, and why."""

    data: DataFacts
    decisions: tuple[Decision, ...]
    overrides: tuple[str, ...]  # of the preset: those decided, then those given
    arguments: TrainArguments

    @property
    def preset(self) -> str:
        return self.decisions[0].choice

    @property
    def spec(self) -> Spec:
        return override(presets.get(self.preset), self.overrides, parts=self.arguments.parts)

    @property
    def command(self) -> str:
        """The command that trains the same without a choice."""
        return shlex.join(["foveal", "train", self.preset, *options(self.arguments), *self.overrides])

    def lines(self) -> list[str]:
        """For the console."""
        data = self.data
        counts = ((data.images, "training image"), (len(data.sides), "object"), (data.classes, "class", "classes"))
        head = "auto: " + ", ".join(counted(*each) for each in counts)
        same = f"  the same: {self.command}"
        return [head, *(each.line() for each in self.decisions), *warnings(data), same]


def plan(arguments: TrainArguments) -> AutoPlan:
    """Looks at the training data and the machine, and decides what the call leaves open.

    Raises :class:`~foveal.errors.FovealError` for data that cannot be trained on, and :class:`UsageError` for
    arguments that fit a chosen detector alone.
    """
    check_request(arguments)
    training = read_sets(arguments).limited(arguments.limit).training
    data, missing = data_facts(training), missing_weights()
    detector = choose_detector(data, missing)
    preset: Any = presets.get(detector.choice)
    paths = [item.partition("=")[0].strip() for item in arguments.overrides]
    paths += ["fit.batch"] if arguments.batch is not None else []
    request = Request(arguments.max_time, arguments.epochs, tuple(paths), equal_short(preset, arguments))
    given = [item for item in arguments.overrides if not item.startswith("input")]  # the pace is that of 320 pixels
    timed = override(preset, given, parts=arguments.parts)
    pretrained = not missing and not request.sets("backbone")
    device = find_device(arguments.device)
    machine = machine_facts(timed, training, device, arguments.precision, pretrained=pretrained)
    decisions = decide(data, machine, detector, preset.anchors, (preset.fit.batch, preset.fit.lr), request)
    settings = [item for each in decisions for item in each.settings]
    return AutoPlan(data, tuple(decisions), (*settings, *arguments.overrides), arguments)


def check_request(arguments: TrainArguments) -> None:
    """Raises :class:`UsageError` for arguments that fit a chosen detector alone."""
    if arguments.weights is not None:
        fix = f"To start from a detector, name it: foveal train {arguments.weights}"
        raise UsageError("the automatic choice has its own initial weights", where="--weights", fix=fix)
    if arguments.proposals is not None:
        raise UsageError("the automatic choice takes no external proposals", where="--proposals", fix="Leave them out")
    if (arguments.devices or 1) > 1 or launchers.external() is not None:
        fix = "Print the plan with --dry-run, and start its command with --devices"
        raise UsageError("the automatic choice is for one process", where="--devices", fix=fix)


def equal_short(preset: Spec, arguments: TrainArguments) -> float:
    """The short side of an input with as many pixels as the one that was given."""
    frame = (480, 640)
    own, given = (
        spec.input.size(*frame) for spec in (preset, override(preset, arguments.overrides, parts=arguments.parts))
    )
    return float(SIZES[0] * ((given[0] * given[1]) / (own[0] * own[1])) ** 0.5)


# ------------------------------------------------------------------------------------------- the command line
def options(arguments: TrainArguments) -> list[str]:
    """The options of a call as they are typed; those with their default value are left out."""
    words: list[str] = []
    for each in fields(TrainArguments):
        value, name = getattr(arguments, each.name), "--" + each.name.replace("_", "-")
        if each.metadata.get("argument") or (each.default is not MISSING and value == each.default):
            continue
        if isinstance(value, bool):
            words.append(name if value else f"--no-{name[2:]}")
        elif isinstance(value, Mapping):
            words += [name, ",".join(f"{k}={v}" for k, v in value.items())]
        elif each.metadata.get("duration"):
            words += [name, f"{value:g}s" if value % 60 else f"{value / 60:g}m"]
        elif isinstance(value, str | Path | int | float):
            words += [name, str(value)]
        elif each.metadata.get("modules"):
            words += [w for module in dict.fromkeys(part.__module__ for part in value) for w in (name, module)]
        elif each.metadata.get("metavar"):
            words += [name, ",".join(f'"{item}"' if "," in item else item for item in value)]
        else:
            words += [w for path in value for w in (name, str(path))]
    return words
