"""How many objects and images of a set were lost while it was read, and why, in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..records.findings import Finding

_OF_OBJECTS = frozenset(  # codes of findings after which an object is missing
    [
        *("box-not-finite", "box-inverted", "box-empty", "box-outside", "box-not-number", "box-missing"),
        *("class-unknown", "class-missing", "object-repeated", "line-columns"),
        *("annotation-invalid", "annotation-orphan", "annotation-repeated"),
    ]
)
_OF_IMAGES = frozenset(  # after which an image is missing, with whatever is in it
    [
        *("image-missing", "image-unreadable", "image-size-mismatch", "image-invalid", "image-ambiguous"),
        *("annotation-missing", "annotation-unreadable", "label-ambiguous"),
    ]
)


def losses(findings: Iterable[Finding]) -> str:
    """``lost: 3 objects (2 box-empty, 1 class-unknown) and 1 image (1 image-missing)``, or ""."""
    told = list(dict.fromkeys(findings))
    parts = []
    for what, codes in (("object", _OF_OBJECTS), ("image", _OF_IMAGES)):
        counts: Counter[str] = Counter()
        for finding in told:
            if finding.code in codes:
                counts[finding.code] += finding.count
        if counts:
            n = sum(counts.values())
            why = ", ".join(f"{count} {code}" for code, count in counts.most_common())
            parts.append(f"{n} {what}{'s' * (n > 1)} ({why})")
    return f"lost: {' and '.join(parts)}" if parts else ""
