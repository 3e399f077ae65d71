"""Properties of the configuration: what is written is read again, whatever it holds; other text is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.config.overrides import override
from foveal.config.parse import parse_value
from foveal.config.show import show
from foveal.config.table import Vocabulary
from foveal.errors import UsageError
from foveal.parts.coders import LTRB, Delta, GridCoder, ImageRelative
from foveal.parts.losses.box import L1, CIoU, GIoU, IoU, SmoothL1, Sum
from foveal.parts.losses.classification import BinaryCrossEntropy, CrossEntropy, Focal
from foveal.parts.losses.normalizers import Fixed, PerImage, Positives, Sampled
from foveal.parts.matching.iou import IoUMatcher
from foveal.parts.postprocess import NMS, Select
from foveal.parts.samplers import OHEM, All, Balanced, HardNegatives

VOCABULARY = Vocabulary()
NUMBER = st.floats(1e-6, 1e6)
PART = st.floats(0.001, 0.999)
COUNT = st.integers(1, 10**6)
NORMALIZER = st.one_of(
    st.builds(Sampled), st.builds(Positives, st.booleans()), st.builds(PerImage), st.builds(Fixed, NUMBER)
)
ONE_BOX_LOSS = st.one_of(
    st.builds(L1, NORMALIZER, NUMBER),
    st.builds(SmoothL1, NUMBER, NORMALIZER, NUMBER),
    st.builds(IoU, st.sampled_from(["linear", "log"]), NORMALIZER, NUMBER),
    st.builds(GIoU, NORMALIZER, NUMBER),
    st.builds(CIoU, NORMALIZER, NUMBER),
)
PARTS: Any = st.one_of(
    ONE_BOX_LOSS,
    st.builds(Sum, st.lists(ONE_BOX_LOSS, min_size=1, max_size=3).map(tuple), NORMALIZER, NUMBER),
    st.builds(Focal, st.none() | PART, NUMBER, st.none() | PART, NORMALIZER, NUMBER),
    st.builds(BinaryCrossEntropy, st.none() | PART, NORMALIZER, NUMBER, st.booleans()),
    st.builds(CrossEntropy, st.booleans(), NORMALIZER, NUMBER, NUMBER),
    st.builds(Delta, st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), st.floats(0, 20) | st.just(math.inf)),
    st.builds(LTRB, st.booleans()),
    st.builds(ImageRelative),
    st.builds(GridCoder, st.booleans(), st.sampled_from(["exp", "square", "logistic"])),
    st.builds(IoUMatcher, st.floats(0.5, 1), st.floats(0.2, 0.5), st.booleans(), PART, st.floats(0, 0.2)),
    st.builds(Balanced, COUNT, PART),
    st.builds(HardNegatives, NUMBER, COUNT),
    st.builds(OHEM, COUNT, PART, st.none() | NUMBER),
    st.builds(All),
    st.builds(NMS, PART, st.sampled_from(["class", "level", "all"]), top=COUNT),
    st.builds(Select, PART, st.none() | COUNT, NUMBER),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
VALUES: Any = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(PARTS)
def test_the_repr_of_a_part_is_read_as_the_part(part: Any) -> None:
    assert parse_value(repr(part), VOCABULARY) == part


@given(PARTS, st.integers(1, 120))
def test_what_show_writes_is_read_again_at_any_width(part: Any, width: int) -> None:
    assert parse_value(show(part, width), VOCABULARY) == part


@given(VALUES)
def test_the_repr_of_a_literal_is_read_as_the_literal(value: Any) -> None:
    again = parse_value(repr(value), VOCABULARY)
    assert again == value and repr(again) == repr(value)  # 1, 1.0 and True differ; so do 0.0 and -0.0


@given(st.one_of(st.text(max_size=20), st.text(st.sampled_from("(){}[],=.:-+*\"'\\ aFocal01eE_\n#"), max_size=24)))
def test_any_other_text_is_refused_in_one_sentence(text: str) -> None:
    """Or is a literal; nothing but ``UsageError`` is raised, and nothing is executed."""
    try:
        parse_value(text, VOCABULARY)
    except UsageError as error:
        assert "\n" not in str(error)


@given(PART, NUMBER, st.none() | COUNT)
def test_an_override_changes_its_setting_alone(score: float, size: float, count: int | None) -> None:
    before = Select()
    after = override(before, [f"score={score!r}", f"min_size={size!r}", f"per_level={count!r}"], VOCABULARY)
    assert after == Select(score, count, size) and before == Select()
    assert (
        override(after, [f"{k}={getattr(before, k)!r}" for k in ("score", "per_level", "min_size")], VOCABULARY)
        == before
    )


@given(st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"), min_size=1, max_size=12), NUMBER)
def test_an_unknown_setting_is_refused(name: str, value: float) -> None:
    known = {"score", "per_level", "min_size", "per_class", "best_class"}
    if name in known:
        return
    with pytest.raises(UsageError):
        override(Select(), [f"{name}={value!r}"], VOCABULARY)
