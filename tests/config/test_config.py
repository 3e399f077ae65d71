"""The spec as configuration: text round trips, overrides, malicious text, diffs, help."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from foveal import presets
from foveal.config.fields import Mismatch, describe, fitted
from foveal.config.literals import parse_value
from foveal.config.overrides import difference, override
from foveal.config.parse import parse_spec, spec_from_json
from foveal.config.show import show, spec_to_json
from foveal.errors import FovealError, UsageError


class Paint(ABC):
    @abstractmethod
    def mix(self) -> int: ...


@dataclass(frozen=True)
class Plain(Paint):
    """A leaf."""

    shade: float = 0.5  # how dark
    name: str | None = None

    def mix(self) -> int:
        return 0


@dataclass(frozen=True)
class Layered(Paint):
    coats: tuple[Plain, ...] = (Plain(), Plain(0.25))
    # two comment lines
    # stand above
    kind: Literal["oil", "water"] = "oil"
    limits: tuple[float, float] = (0.0, math.inf)
    extra: dict[str, int] = dataclasses.field(default_factory=dict)

    def mix(self) -> int:
        return 1

    def __post_init__(self) -> None:
        if self.limits[0] > self.limits[1]:
            raise ValueError("limits are the wrong way round")


@dataclass(frozen=True)
class House:
    paint: Paint = Plain()
    inner: Paint | None = None
    rooms: int = 3
    open: bool = False


NAMES: dict[str, type] = {c.__name__: c for c in (Plain, Layered, House)}
HOUSES = [
    House(),
    House(Layered(limits=(-math.inf, 1e-9)), Plain(name='it\'s "red"\n'), 0, True),
    House(Layered((), "water", extra={"a": -1}), Layered((Plain(1.0),))),
]


# ------------------------------------------------------------------------------------------- round trips
@pytest.mark.parametrize("house", HOUSES)
def test_text_round_trips_to_an_equal_value(house: House) -> None:
    assert parse_value(repr(house), NAMES) == house
    for width in (1, 40, 10_000):
        assert parse_value(show(house, width), NAMES) == house
    assert spec_from_json(spec_to_json(house), NAMES) == house


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_round_trips(name: str) -> None:
    spec = presets.get(name)
    assert parse_spec(repr(spec)) == spec
    assert parse_spec(show(spec)) == spec


def test_nan_round_trips_and_equals_itself_in_a_diff() -> None:
    back = parse_value(show(Plain(math.nan)), NAMES)
    assert math.isnan(back.shade)
    assert difference(Plain(math.nan), back) == []


def test_show_breaks_lines_only_where_needed() -> None:
    assert show(Plain()) == "Plain(shade=0.5, name=None)"
    assert show(Layered(()), 40).splitlines()[:2] == ["Layered(", "    coats=(),"]
    assert max(map(len, show(HOUSES[1], 60).splitlines())) <= 60


def test_unknown_schema_is_rejected() -> None:
    with pytest.raises(FovealError, match="schema 99"):
        spec_from_json({"schema": 99, "spec": "House()"}, NAMES)


def test_a_part_is_not_a_spec() -> None:
    with pytest.raises(UsageError, match="Focal is not a detector"):
        parse_spec("Focal()")


# --------------------------------------------------------------------------------------------- overrides
def test_overrides_apply_by_path_in_order() -> None:
    house = override(
        House(),
        ["paint=Layered()", "paint.coats.1.shade=.3", "paint.kind=water", "paint.coats.0.name=sky-2", "open=True"],
        NAMES,
    )
    assert house == House(Layered((Plain(0.5, "sky-2"), Plain(0.3)), "water"), open=True)
    assert override(House(), ["paint=Layered([Plain()], limits=[0, 1])"], NAMES).paint == Layered(
        (Plain(),), limits=(0.0, 1.0)
    )


def test_integers_are_converted_to_float_fields() -> None:
    for path in ("/data/x.weights", "./x-1.pth", "../../a.b", "~/x.pth", "models/x.pth"):
        assert override(Plain(), [f"name={path}"], NAMES).name == path
    shade = override(House(), ["paint.shade=2"], NAMES).paint
    assert isinstance(shade, Plain)
    assert type(shade.shade) is float


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("pain=Plain()", "unknown setting pain. Did you mean paint? Valid settings: inner, open, paint, rooms"),
        ("paint.shad=1", "paint: Plain: unknown setting shad. Did you mean shade?"),
        ("paint=Plane()", "unknown part Plane. Did you mean Plain? Valid parts: Layered, Plain"),
        ("paint=House()", "House(paint=Plain(shade=0.5, name=None), inner=None, rooms=3, open=False) is not a Paint"),
        ("paint=Plain", "Plain is a part. Write Plain() to create one"),
        ("paint=None", "None is not a Paint"),
        ("paint=Plain(1, 2, 3)", "3 values for 2 fields"),
        ("paint=Plain(0.1, shade=0.2)", "shade is given twice"),
        ("paint=Plain(shad=1)", "unknown field shad. Did you mean shade?"),
        ("paint=Plain('dark')", "paint: Plain.shade: 'dark' is not a number"),
        ("paint=Layered(limits=(2, 1))", "limits are the wrong way round"),
        ("paint=Layered(limits=(1, 2, 3))", "2 values"),
        ("rooms=2.0", "rooms: 2.0 is not an integer"),
        ("rooms=True", "True is not an integer"),
        ("open=1", "1 is not True or False"),
        ("inner.shade=1", "inner is None. Set inner as a whole (Paint | None)"),
        ("rooms.x=1", "rooms is 3"),
        ("rooms", "not of the form key=value"),
        ("rooms==3", "not of the form key=value"),
        ("rooms=", "cannot read"),
    ],
)
def test_invalid_override_is_explained(item: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        override(House(), [item], NAMES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tuple_index_must_exist() -> None:
    for item in ("coats.2.shade=1", "coats.-1.shade=1", "coats.x=1"):
        with pytest.raises(UsageError, match=r"Use one of the indices 0 to 1|key=value"):
            override(Layered(), [item], NAMES)
    with pytest.raises(UsageError, match="'tempera' is not one of 'oil', 'water'"):
        override(Layered(), ["kind=tempera"], NAMES)


def test_documented_overrides_apply_to_presets() -> None:
    spec = override(
        presets.get("faster_rcnn_mini"),
        ["rpn.cls_loss=Focal(gamma=1.5)", "rpn.sampler=All()", "input.short=600", "fit.lr=0.01", "fit.augment.0.p=.3"],
    )
    changed = {path: new for path, _, new in difference(presets.get("faster_rcnn_mini"), spec)}
    assert set(changed) == {"rpn.cls_loss", "rpn.sampler", "input.short", "fit.lr", "fit.augment.0.p"}
    assert repr(changed["rpn.cls_loss"]).startswith("Focal(alpha=0.25, gamma=1.5,")
    assert changed["fit.augment.0.p"] == 0.3


def test_stretch_without_a_size_keeps_the_model_size() -> None:
    spec: Any = override(presets.get("retinanet_mini"), ["input=Stretch()"])
    assert (spec.input.width, spec.input.height) == (presets.retinanet_mini.input.short,) * 2  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------- malicious text
@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "__import__('os')",
        "open('/etc/passwd')",
        "().__class__",
        "Plain().shade",
        "Plain.__init__()",
        "(lambda: 1)()",
        "lambda: 1",
        "[x for x in (1, 2)]",
        "{x: 1 for x in (1, 2)}",
        "Plain(*(1, 2))",
        "Plain(**{'shade': 1})",
        "{**{}}",
        "1 + 1",
        "2 ** 999999999",
        "not True",
        "-True",
        "f'{1}'",
        "b'bytes'",
        "1j",
        "...",
        "{1, 2}",
        "x := 1",
        "Plain() if True else 0",
        "Plain(); 1",
        "House",
        "unknown",
        "",
        "\x00",
        "9" * 5000,
        "(" * 300,
        "[" * 80 + "]" * 80,
        "Plain(" * 80 + ")" * 80,
        "-" * 100_000 + "1",
        "a." * 100_000 + "b",
        "1+" * 100_000 + "1",
        "x" + "()" * 100_000,
    ],
)
def test_malicious_text_is_rejected_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_value(text, NAMES, where="somewhere")
    assert str(caught.value).startswith("somewhere")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# -------------------------------------------------------------------------------------------- type checks
@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (1, float, 1.0),
        ([1, 2], tuple[int, ...], (1, 2)),
        ((1, 2), list[float], [1.0, 2.0]),
        (None, int | None, None),
        (3, float | int, 3),
        (3, float | None, 3.0),
        ("a", Literal["a", 1], "a"),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        (((1, 2), (3,)), tuple[tuple[float, ...], ...], ((1.0, 2.0), (3.0,))),
        ((), tuple[()], ()),
        (object, Any, object),
    ],
)
def test_valid_values(value: object, hint: Any, result: object) -> None:
    assert fitted(value, hint) == result
    assert type(fitted(value, hint)) is type(result)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (True, float),
        (1, bool),
        (1.0, int),
        ("1", int),
        (1, str),
        (True, Literal[1]),
        (1, str | None),
        ((1, 2), tuple[int, int, int]),
        ((1, "a"), tuple[int, ...]),
        ({1: 1}, dict[str, int]),
        (Plain, Paint),
        (None, Paint),
    ],
)
def test_invalid_values(value: object, hint: Any) -> None:
    with pytest.raises(Mismatch):
        fitted(value, hint)


# ------------------------------------------------------------------------------------------ help, modules
def test_a_fields_comment_is_its_help() -> None:
    rows = {row.name: row for row in describe(Layered)}
    assert rows["kind"].help == "two comment lines stand above"
    assert rows["kind"].type == "'oil' | 'water'"
    assert rows["kind"].default == "'oil'"
    assert describe(Plain())[0].help == "how dark"
    assert {row.help for row in describe(presets.get("retinanet_mini").fit)} >= {
        "largest norm of all gradients together"
    }


def test_diff_recurses_while_classes_match() -> None:
    a, b = House(Layered()), House(Layered((Plain(0.1), Plain(0.25))), Plain())
    assert difference(a, b) == [("paint.coats.0.shade", 0.5, 0.1), ("inner", None, Plain())]
    assert difference(House(rooms=1), dataclasses.replace(House(), rooms=True)) == [("rooms", 1, True)]


def test_importing_config_does_not_import_torch() -> None:
    code = "import sys, foveal.config.parse; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_strings_in_a_call_need_quotes() -> None:
    with pytest.raises(UsageError, match=r"Quote text in a call: Darknet\(\"my.cfg\"\)"):
        override(House(), ["paint=Plain(name=/data/x.cfg)"], NAMES)
    with pytest.raises(UsageError, match=r"unknown name dark\. Text needs quotes here: 'dark'"):
        override(House(), ["paint=Plain(name=dark)"], NAMES)
