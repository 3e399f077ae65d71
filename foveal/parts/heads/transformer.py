"""DETR's head: a transformer encoder over the last map and a decoder over object queries (DETR, section 3.2).

Letters: B images, S locations of the map (h x w, row by row), Q queries, d width, L decoder layers. The module tree has
the names of the original code, so that its checkpoints load without a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError
from ...types import Images, Predictions, on_cpu
from .dense import DenseHead

_EPS = 1e-6
_GAIN = 2.0  # of the projections of anchored queries: at 1 a query hardly prefers its own location
_SIDE = -math.log(4)  # logit of the initial sides of the boxes of anchored queries: a fifth of the image's


@dataclass(frozen=True)
class Transformer:
    """Encoder and decoder of Vaswani et al. (2017), a norm after each block; boxes are predicted through a sigmoid."""

    queries: int = 100  # largest number of detections of an image
    width: int = 256  # embedding dimension of locations and queries
    heads: int = 8  # of each attention
    encoder: int = 6  # layers
    decoder: int = 6  # layers, each with losses (auxiliary losses)
    hidden: int = 2048  # width inside the feed-forward blocks
    dropout: float = 0.1
    turns: float = 1.0  # periods of the shortest sine wave of the position encoding over the image
    temperature: float = 10_000.0  # ratio of the longest to the shortest wave
    anchored: bool = False  # queries have learned locations, and attend to them at first (Anchor DETR, 2022)

    def __post_init__(self) -> None:
        if min(self.queries, self.heads, self.decoder, self.hidden) < 1 or self.encoder < 0:
            raise UsageError(f"{self}: expected counts of at least 1 (encoder: 0)")
        if self.width % self.heads or self.width % 4:
            raise UsageError(f"{self}: expected width a multiple of heads and of 4 (a sine and a cosine for each axis)")
        if not 0 <= self.dropout < 1 or self.turns <= 0 or self.temperature < 1:
            raise UsageError(f"{self}: expected dropout in [0, 1), turns above 0, temperature of at least 1")

    def build(self, channels: Sequence[int], logits: int, bias: float | None) -> TransformerHead:
        """For maps of these channels, of which the last is used, and ``logits`` of each query."""
        return TransformerHead(self, channels[-1], logits, bias)


class TransformerHead(DenseHead):
    """The last map (B, c, h, w) -> for each decoder layer logits (B, Q, K) and boxes (B, Q, 4): center and sides as
    fractions of the image."""

    def __init__(self, spec: Transformer, inputs: int, logits: int, bias: float | None) -> None:
        super().__init__()
        self.turns, self.temperature = spec.turns, spec.temperature
        self.input_proj = nn.Conv2d(inputs, spec.width, 1)
        self.encoder, self.decoder = Encoder(spec), Decoder(spec)
        self.query_embed = nn.Embedding(spec.queries, spec.width)
        self.class_embed = nn.Linear(spec.width, logits)
        self.bbox_embed = MLP(spec.width, 4, depth=3)
        self.anchors = nn.Parameter(spread_out(spec.queries).logit()) if spec.anchored else None  # (Q, 2) y, x
        if bias is not None:
            nn.init.constant_(self.class_embed.bias, bias)
        if spec.anchored:
            self.bbox_embed.start_with((0.0, 0.0, _SIDE, _SIDE))
            nn.init.zeros_(self.query_embed.weight)  # queries differ by their locations
            for layer in self.decoder.layers:
                cast(DecoderLayer, layer).multihead_attn.attend_to_similar()

    def layers(self, features: list[Tensor], images: Images) -> list[Predictions]:
        predictions: list[Predictions] = self(features, images)
        return predictions

    def forward(self, features: list[Tensor], images: Images) -> list[Predictions]:
        states = self.states(features, images)
        boxes = self.bbox_embed(states).float()
        if self.anchors is not None:
            boxes = boxes + F.pad(self.anchors.flip(1), (0, 2))  # the center is relative to the query's location
        boxes = boxes.sigmoid()  # in fp32: bf16 would be accurate to 1/512 of the image only
        return [Predictions(*layer) for layer in zip(self.class_embed(states), boxes, strict=True)]

    def states(self, features: list[Tensor], images: Images) -> Tensor:
        """The embeddings of the queries after each decoder layer, (L, B, Q, d)."""
        x = self.input_proj(features[-1])
        h, w = x.shape[-2:]
        rows, columns = image_part(images, h, w)
        position = sine_positions(rows, columns, x.shape[1], self.turns, self.temperature).to(x.dtype)
        locations = x.flatten(2).transpose(1, 2)  # (B, S, d): no copy of channels-last maps
        mask = None if _whole(images) else (rows[:, :, None] & columns[:, None]).flatten(1)[:, None, None]
        memory = self.encoder(locations, position, mask)
        query, start = self.query_embed.weight, torch.zeros_like(self.query_embed.weight)
        if self.anchors is not None:  # the embedding is the content of the query, the anchor its position
            y, x = (2 * math.pi * self.anchors.float().sigmoid()).unbind(1)
            half = query.shape[1] // 2
            query, start = torch.cat([sines(v, half, self.turns, self.temperature) for v in (y, x)], -1), query
        return cast(Tensor, self.decoder(start, query, memory, position, mask))


# ---------------------------------------------------------------------------------------------- positions
def image_part(images: Images, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Which rows (B, h) and columns (B, w) of a map belong to the image and not to its padding: the canvas's, sampled
    at the nearest pixel as by ``F.interpolate``."""
    inside = []
    for axis, cells in enumerate((h, w)):
        pixels = images.pixels.shape[2 + axis]
        at = (torch.arange(cells, dtype=torch.float32, device=images.sizes.device) * (pixels / cells)).floor()
        inside.append(at < images.sizes[:, axis, None])
    return inside[0], inside[1]


def sine_positions(
    rows: Tensor, columns: Tensor, width: int, turns: float = 1.0, temperature: float = 10_000.0
) -> Tensor:
    """Rows (B, h) and columns (B, w) of the image -> position encodings (B, h w, width) float32: y first, then x.

    Each axis is counted from 1 and scaled to 0..2 pi over the image; see :func:`sines`.
    """

    def axis(part: Tensor) -> Tensor:  # (B, n) -> (B, n, width / 2)
        count = part.cumsum(1, dtype=torch.float32)
        return sines(count / (count[:, -1:] + _EPS) * (2 * math.pi), width // 2, turns, temperature)

    y, x = axis(rows)[:, :, None], axis(columns)[:, None]
    h, w = rows.shape[1], columns.shape[1]
    return torch.cat([y.expand(-1, -1, w, -1), x.expand(-1, h, -1, -1)], -1).flatten(1, 2)


def sines(angle: Tensor, numbers: int, turns: float, temperature: float) -> Tensor:
    """Angles (...) -> (..., numbers): sines (even indices) and cosines (odd) of waves from short to long."""
    step = torch.arange(0, numbers, 2, dtype=torch.float32, device=angle.device)
    phase = angle[..., None] / (temperature ** (step / numbers) / turns)
    return torch.stack([phase.sin(), phase.cos()], -1).flatten(-2)


def spread_out(points: int) -> Tensor:
    """Points (n, 2) in 0..1, evenly spread for any number of them (the R2 sequence: multiples of the powers of the
    plastic number, without their whole parts)."""
    plastic = 1.32471795724474602596
    steps = torch.arange(1, points + 1, dtype=torch.float64)[:, None] * torch.tensor([1 / plastic, 1 / plastic**2])
    return ((0.5 + steps) % 1).float()


def _whole(images: Images) -> bool:
    """Whether there is no padding, asked on a CPU alone: attention without a mask is faster."""
    if not on_cpu(images.sizes):
        return False
    return bool((images.sizes == torch.tensor(images.pixels.shape[-2:])).all())


# ---------------------------------------------------------------------------------------------- attention
class Attention(nn.Module):
    """Multi-head scaled dot-product attention through torch's fused kernel.

    Its parameters are ``nn.MultiheadAttention``'s: the rows of ``in_proj_weight`` project to queries, keys and values.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width, self.heads, self.dropout = width, heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """``queries`` (B, Q, d), ``keys`` (B, S, d), ``values`` (B, S, d) -> (B, Q, d).

        ``mask`` (B, 1, 1, S): true where attention is allowed.
        """
        q, k = self._queries_and_keys(queries, keys)
        v = self._split(F.linear(values, self.in_proj_weight[2 * self.width :], self.in_proj_bias[2 * self.width :]))
        attended = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return cast(Tensor, self.out_proj(attended.transpose(1, 2).flatten(2)))

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention weights (B, heads, Q, S), which the fused kernel does not return."""
        q, k = self._queries_and_keys(queries, keys)
        logits = (q @ k.transpose(2, 3)).float() / math.sqrt(self.width // self.heads)
        return (logits if mask is None else logits.masked_fill(~mask, -torch.inf)).softmax(-1)

    def attend_to_similar(self) -> None:
        """Initializes queries and keys with one, large projection, so that similar ones attend to each other, and
        locations to themselves."""
        with torch.no_grad():
            self.in_proj_weight[: self.width] *= _GAIN
            self.in_proj_weight[self.width : 2 * self.width] = self.in_proj_weight[: self.width]

    def _queries_and_keys(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The projections, (B, heads, n, d / heads) each."""
        d, weight, bias = self.width, self.in_proj_weight, self.in_proj_bias
        if queries is keys:  # self-attention: one product for both
            q, k = F.linear(queries, weight[: 2 * d], bias[: 2 * d]).chunk(2, -1)
        else:
            q, k = F.linear(queries, weight[:d], bias[:d]), F.linear(keys, weight[d : 2 * d], bias[d : 2 * d])
        return self._split(q), self._split(k)

    def _split(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        return x.view(b, n, self.heads, d // self.heads).transpose(1, 2)


class FeedForward(nn.Module):
    """The feed-forward block of both kinds of layer: two linear layers with a ReLU between them."""

    def __init__(self, spec: Transformer) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(spec.width, spec.hidden), nn.Linear(spec.hidden, spec.width)
        self.dropout = nn.Dropout(spec.dropout)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def feed_forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))


class EncoderLayer(FeedForward):
    """Self-attention of the locations (B, S, d), then the feed-forward block."""

    def __init__(self, spec: Transformer) -> None:
        super().__init__(spec)
        self.self_attn = Attention(spec.width, spec.heads, spec.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(spec.width), nn.LayerNorm(spec.width)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        positioned = x + position
        x = self.norm1(x + self.dropout(self.self_attn(positioned, positioned, x, mask)))
        return cast(Tensor, self.norm2(x + self.feed_forward(x)))


class DecoderLayer(FeedForward):
    """Self-attention of the queries (B, Q, d), cross-attention to the locations, then the feed-forward block."""

    def __init__(self, spec: Transformer) -> None:
        super().__init__(spec)
        self.self_attn = Attention(spec.width, spec.heads, spec.dropout)
        self.multihead_attn = Attention(spec.width, spec.heads, spec.dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(spec.width) for _ in range(3))

    def forward(self, x: Tensor, query: Tensor, memory: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        positioned = x + query
        x = self.norm1(x + self.dropout(self.self_attn(positioned, positioned, x)))
        x = self.norm2(x + self.dropout(self.multihead_attn(x + query, keys, memory, mask)))
        return cast(Tensor, self.norm3(x + self.feed_forward(x)))


class Encoder(nn.Module):
    """(B, S, d) -> (B, S, d)."""

    def __init__(self, spec: Transformer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(spec) for _ in range(spec.encoder))

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, position, mask)
        return x


class Decoder(nn.Module):
    """Query positions (Q, d) and initial contents (Q, d) -> the contents after each layer, (L, B, Q, d)."""

    def __init__(self, spec: Transformer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(spec) for _ in range(spec.decoder))
        self.norm = nn.LayerNorm(spec.width)  # of the output of every layer

    def forward(self, start: Tensor, query: Tensor, memory: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
        x, query = (t.to(memory.dtype).expand(len(memory), -1, -1) for t in (start, query))
        keys, states = memory + position, []
        for layer in self.layers:
            x = layer(x, query, memory, keys, mask)
            states.append(x)
        return cast(Tensor, self.norm(torch.stack(states)))


class MLP(nn.Module):
    """Linear layers of one width with ReLUs between them."""

    def __init__(self, width: int, outputs: int, depth: int) -> None:
        super().__init__()
        sizes = [width] * depth + [outputs]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def start_with(self, output: Sequence[float]) -> None:
        """Initializes the last layer so that every input has this output."""
        last = cast(nn.Linear, self.layers[-1])
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor(output))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return cast(Tensor, self.layers[-1](x))
