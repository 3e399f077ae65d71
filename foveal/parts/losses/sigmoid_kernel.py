"""The fast kernel of every sigmoid loss: value and gradient of each prior together, in closed form, chunk by chunk.

All of them are one function of the logit. With ``u = slope * x - shift`` for a background entry,
``u = -slope * x - shift`` for the entry of the object's class, and ``s(u) = softplus(u) = -ln(1 - sigmoid(u))``,

    loss  = weight / slope * f(u),      f(u)  = sigmoid(u)^power * s(u)
    dloss = +-weight * f'(u),           f'(u) = sigmoid(u)^power * (power * (1 - sigmoid(u)) * s(u) + sigmoid(u))

The plain formula stores a dozen tensors of the logits' size for its backward. Here each chunk of priors stays in the
CPU's cache, the only large tensor allocated is the gradient itself, and backward multiplies it in place by the
gradient of the priors' losses. Labels stay integers: every entry (prior, class) is first computed as background, then
the one column of each prior that may be its object's class is overwritten. Nothing in here waits for the device.

N priors of the whole batch, K logits a prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...types import on_cpu

_CACHE_CHUNK = 1 << 17  # entries a thread: the buffers stay in cache, and the cost of a call is small against its work
_DEVICE_CHUNK = 1 << 24  # entries on a GPU: few launches, 192 MiB of buffers
_HALF_SCALE = 4096.0  # float16 gradients are stored this much larger: focal's small ones would underflow below 6e-8


@dataclass(frozen=True)
class SigmoidLossParams:
    """The parameters of one sigmoid loss: ``power`` is focal's gamma, ``slope`` and ``shift`` are FL*'s gamma and
    beta."""

    power: float = 0.0
    slope: float = 1.0
    shift: float = 0.0
    positive: float = 1.0  # weight of the entry of the object's class
    negative: float = 1.0  # weight of every other entry


def sigmoid_loss(logits: Tensor, labels: Tensor, positive: Tensor, params: SigmoidLossParams) -> Tensor:
    """The loss of every prior, summed over its K entries.

    logits (B, A, K) of any floating type, labels (B, A) int64 in 0..K-1 where positive, positive (B, A) bool
    -> (B, A) float32 (float64 for float64 logits). The gradient has the logits' type.

    Backward can run once, as it overwrites the stored gradient. A second call raises ``RuntimeError``.
    """
    needs_grad = logits.requires_grad and torch.is_grad_enabled()
    losses: Tensor = _SigmoidLoss.apply(logits, labels, positive, params, needs_grad)
    return losses


class _SigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, positive: Tensor, params: SigmoidLossParams, needs_grad: bool
    ) -> Tensor:
        flat = logits.reshape(-1, logits.shape[-1])  # (N, K)
        column = torch.where(positive, labels, 0).reshape(-1, 1)
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        with torch.autocast(flat.device.type, enabled=False):  # before the buffers exist, so that memory peaks lower
            label_loss, label_grad = _label_entry(flat.gather(1, column).to(dtype), positive.reshape(-1, 1), params)
        loss = torch.empty(flat.shape[0], dtype=dtype, device=flat.device)
        grad = torch.empty_like(flat, memory_format=torch.contiguous_format) if needs_grad else None
        scale = _HALF_SCALE if logits.dtype == torch.float16 else 1.0
        step = _priors_per_chunk(flat)
        buffers = [flat.new_empty(min(step, flat.shape[0]), flat.shape[1], dtype=dtype) for _ in range(3)]
        in_place = grad is not None and grad.dtype == dtype  # the gradient is computed where it is stored
        if not in_place:
            buffers.append(torch.empty_like(buffers[0]))
        with torch.autocast(flat.device.type, enabled=False):
            for i in range(0, flat.shape[0], step):
                chunk = slice(i, min(i + step, flat.shape[0]))
                u, f, t, *spare = (b[: chunk.stop - chunk.start] for b in buffers)
                df = grad[chunk] if in_place and grad is not None else spare[0]
                _value_and_slope(_argument(flat[chunk], u, params), u, f, df, t, params.power)
                f.mul_(params.negative / params.slope).scatter_(1, column[chunk], label_loss[chunk])
                torch.sum(f, 1, out=loss[chunk])
                if grad is not None:
                    df.mul_(params.negative).scatter_(1, column[chunk], label_grad[chunk])
                    if not in_place:
                        grad[chunk] = df.mul_(scale) if scale != 1 else df
        ctx.grad, ctx.shape, ctx.scale = grad, logits.shape, scale
        return loss.view(logits.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_grad: Tensor) -> tuple[Tensor | None, ...]:
        grad: Tensor | None = ctx.grad
        if grad is None:
            raise RuntimeError(
                "backward ran twice through a sigmoid class loss, whose first backward overwrites the stored gradient. "
                "Compute the loss again, or add the losses and call backward once"
            )
        ctx.grad = None  # multiplied in place below
        factor = loss_grad.reshape(-1, 1) / ctx.scale
        step = _priors_per_chunk(grad)
        for i in range(0, grad.shape[0], step):  # in chunks: mixed types would make a float32 copy of the whole
            grad[i : i + step].mul_(factor[i : i + step])
        return grad.view(ctx.shape), None, None, None, None


def _value_and_slope(x: Tensor, u: Tensor, f: Tensor, df: Tensor, t: Tensor, power: float) -> None:
    """Writes f(x) and f'(x) into the buffers ``f`` and ``df``; overwrites ``u`` (which may be ``x``) and ``t``."""
    torch.sigmoid(x, out=t)
    torch.sub(1, t, out=df)  # 1 - p
    # softplus(x) = max(x, 0) - ln(1 - min(p, 1 - p)): exact to rounding at both ends, and one exp and one log in all
    torch.minimum(t, df, out=f)
    torch.sub(torch.clamp(x, min=0, out=u), f.neg_().log1p_(), out=f)
    if power == 0:
        df.copy_(t)
        return
    modulation = torch.mul(t, t, out=u) if power == 2 else torch.pow(t, power, out=u)
    f.mul_(modulation)
    df.mul_(f)  # p^power (1 - p) softplus
    torch.add(modulation.mul_(t), df, alpha=power, out=df)


def _argument(x: Tensor, u: Tensor, params: SigmoidLossParams) -> Tensor:
    """``slope * x - shift``: in ``u``, or ``x`` itself where they are equal."""
    if params.slope == 1 and params.shift == 0 and x.dtype == u.dtype:
        return x
    u.copy_(x)
    return u.mul_(params.slope).sub_(params.shift) if (params.slope, params.shift) != (1, 0) else u


def _label_entry(x: Tensor, positive: Tensor, params: SigmoidLossParams) -> tuple[Tensor, Tensor]:
    """Loss and gradient (N, 1) of the logits ``x`` (N, 1) in the label's column, of an object where ``positive``."""
    u = torch.where(positive, -x, x)
    f, df, t = torch.empty_like(u), torch.empty_like(u), torch.empty_like(u)
    _value_and_slope(_argument(u, u, params), u, f, df, t, params.power)
    one = positive.to(u.dtype)
    weight = one * (params.positive - params.negative) + params.negative
    return f.mul_(weight).div_(params.slope), df.mul_(weight).mul_(1 - 2 * one)


def _priors_per_chunk(flat: Tensor) -> int:
    # while compiling the number of threads cannot be read, so that runs as on a GPU
    entries = _CACHE_CHUNK * torch.get_num_threads() if on_cpu(flat) else _DEVICE_CHUNK
    return max(1, entries // max(1, flat.shape[1]))
