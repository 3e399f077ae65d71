"""Parses the text of a spec, which is the whole configuration of a detector.

The text is a constructor call of parts, such as ``Focal(gamma=1.5)``. It is parsed and looked up in a table of
classes, never executed. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import FovealError, UsageError
from .fields import FieldHelp, describe
from .literals import parse_value
from .table import Vocabulary

if TYPE_CHECKING:
    from ..assembly.detector import Spec

__all__ = ["FieldHelp", "describe", "parse_spec", "parse_value", "spec_from_json"]


SCHEMA = 1  # of the stored text; increased when old text can no longer be read
T = TypeVar("T")


# ------------------------------------------------------------------------------------------ text -> spec
def parse_spec(
    text: str,
    names: Mapping[str, type] | None = None,
    *,
    parts: Sequence[type] = (),
    modules: Mapping[str, str] | None = None,
) -> Spec:
    """The spec that ``repr(spec)`` or :func:`show` wrote. Raises :class:`UsageError` for anything else.

    ``parts`` are custom classes that the text may name, ``modules`` the modules of those that it does name (for
    messages). ``names`` replaces the parts of the package.
    """
    spec = parse_value(text, Vocabulary(parts, modules) if names is None else names, where="spec")
    if names is None:
        from ..assembly.detector import Spec

        if not isinstance(spec, Spec):
            raise UsageError(f"{type(spec).__name__} is not a detector", where="spec")
    return spec  # type: ignore[no-any-return]


def spec_from_json(
    stored: Mapping[str, Any], names: Mapping[str, type] | None = None, *, parts: Sequence[type] = ()
) -> Spec:
    """The inverse of :func:`to_json`. Raises :class:`FovealError` for another schema or content."""
    schema, text = stored.get("schema"), stored.get("spec")
    if schema != SCHEMA or not isinstance(text, str):
        raise FovealError(
            f"schema {schema!r}, expected {SCHEMA} with the text of a spec",
            where="spec",
            fix="Read it with the version that wrote it",
        )
    return parse_spec(text, names, parts=parts, modules=stored_modules(stored))


def stored_modules(stored: Mapping[str, Any]) -> dict[str, str]:
    """The modules of custom parts, as a run or file names them; none of them is imported."""
    parts = stored.get("parts")
    return {str(k): str(v) for k, v in parts.items()} if isinstance(parts, dict) else {}
