"""Records the attention weights of DETR's queries while its head runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

from ..assembly.detector import Detector
from ..assembly.one_stage import OneStage
from ..parts.heads.transformer import DecoderLayer, TransformerHead


@contextmanager
def recorded_attention(detector: Detector, layer: int = -1) -> Iterator[list[Tensor]]:
    """A list that each forward pass inside appends to: the cross-attention weights of one decoder layer, averaged over
    its heads, (B, Q, h, w) float32 over the cells of the last feature map. It stays empty without queries.

    They are not negative, 0 outside the image, and sum to 1 over the map.
    """
    maps: list[Tensor] = []
    head = detector.head if isinstance(detector, OneStage) else None
    if not isinstance(head, TransformerHead):
        yield maps
        return
    attention = cast(DecoderLayer, head.decoder.layers[layer]).multihead_attn
    sides: list[tuple[int, int]] = []

    def note_sides(_: nn.Module, inputs: tuple[list[Tensor], object]) -> None:
        sides.append((inputs[0][-1].shape[-2], inputs[0][-1].shape[-1]))

    def record(_: nn.Module, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> None:
        weights = attention.weights(inputs[0], inputs[1], inputs[3]).mean(1)
        maps.append(weights.view(*weights.shape[:2], *sides[-1]))

    handles = [head.register_forward_pre_hook(note_sides), attention.register_forward_pre_hook(record)]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
