"""Darknet's IoU losses: by hand, and against its formulas written out for one box."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from foveal.errors import UsageError
from foveal.parts.coders import Delta, GridCoder
from foveal.parts.losses.box import CIoU, DIoU, GIoU, IoU
from foveal.parts.losses.darknet_iou import DarknetIoU

EXP, LOGISTIC = GridCoder(), GridCoder(sides="logistic")
PLAIN = {"iou": IoU(), "giou": GIoU(), "diou": DIoU(), "ciou": CIoU()}


def prior(scale: float = 1.0) -> Tensor:
    """A cell of 100 px at (400, 400) in a canvas of 1000 px, with an anchor of 100 px."""
    return torch.tensor([[[400.0, 400, 500, 500, 100, 100, 1000, 1000, scale]]])


def gradient(loss: DarknetIoU, deltas: Tensor, box: list[float], coder: GridCoder, scale: float = 1.0) -> list[float]:
    deltas = deltas.clone().requires_grad_()
    value = loss(deltas, prior(scale), torch.tensor([[box]]), coder)
    assert torch.isfinite(value).all()
    (loss.weight * value).sum().backward()
    assert deltas.grad is not None
    return deltas.grad.flatten().tolist()


def test_gradient_by_hand() -> None:
    """tw = th = ln 2: the box is .35 .. .55, the object lies .05 to the right.

    I = .15 x .2 = .03, U = .05. By x: dI = .2, dU = -.2, so dIoU = (U .2 + I .2) / U^2 = 6.4. By the right edge, which
    alone is inside: dI = .2, dX = .2: dIoU = U .2 / U^2 = 4; by the left one, outside: dI = 0, dX = -.2:
    dIoU = I .2 / U^2 = 2.4. By w their difference, 1.6 (Darknet's; the slope is half of it), times exp(tw) = 2.
    """
    deltas = torch.tensor([[[0.0, 0, math.log(2), math.log(2)]]])
    dx, dy, dw, _ = gradient(DarknetIoU("iou", weight=0.5), deltas, [400, 350, 600, 550], EXP)
    assert (dx, dw) == pytest.approx((-0.5 * 6.4, -0.5 * 1.6 * 2), rel=1e-4)
    assert dy == pytest.approx(0, abs=1e-4)
    capped = gradient(DarknetIoU("iou", largest=2.0, weight=0.5), deltas, [400, 350, 600, 550], EXP)
    assert capped[0] == pytest.approx(-2) and capped[2] == pytest.approx(dw)


def darknet(pred: tuple[float, ...], truth: tuple[float, ...], kind: str) -> list[float]:
    """``dx_box_iou`` of Darknet's box.c for boxes x, y, w, h that overlap: the slope by each."""
    (px, py, pw, ph), (tx, ty, tw, th) = pred, truth
    x1, x2, y1, y2 = px - pw / 2, px + pw / 2, py - ph / 2, py + ph / 2
    u1, u2, v1, v2 = tx - tw / 2, tx + tw / 2, ty - th / 2, ty + th / 2
    i_w, i_h = min(x2, u2) - max(x1, u1), min(y2, v2) - max(y1, v1)
    i, u = i_w * i_h, pw * ph + tw * th - i_w * i_h
    c_w, c_h = max(x2, u2) - min(x1, u1), max(y2, v2) - min(y1, v1)
    d_i = {"l": -i_h * (x1 > u1), "r": i_h * (x2 < u2), "t": -i_w * (y1 > v1), "b": i_w * (y2 < v2)}
    d_x = {"l": -ph, "r": ph, "t": -pw, "b": pw}
    d_u = {k: d_x[k] - d_i[k] for k in "lrtb"}
    p = {k: (u * d_i[k] - i * d_u[k]) / u**2 for k in "lrtb"}
    if kind == "giou":
        c = c_w * c_h
        d_c = {"l": -c_h * (x1 < u1), "r": c_h * (x2 > u2), "t": -c_w * (y1 < v1), "b": c_w * (y2 > v2)}
        p = {k: p[k] + (c * d_u[k] - u * d_c[k]) / c**2 for k in "lrtb"}
    dx, dy, dw, dh = p["l"] + p["r"], p["t"] + p["b"], p["r"] - p["l"], p["b"] - p["t"]
    if kind in ("diou", "ciou"):
        c, s = c_w**2 + c_h**2, (px - tx) ** 2 + (py - ty) ** 2
        dx += (2 * (tx - px) * c - 2 * c_w * ((x2 > u2) - (x1 < u1)) * s) / c**2
        dy += (2 * (ty - py) * c - 2 * c_h * ((y2 > v2) - (y1 < v1)) * s) / c**2
        dw += 2 * c_w * 0.5 * ((x2 > u2) + (x1 < u1)) * s / c**2
        dh += 2 * c_h * 0.5 * ((y2 > v2) + (y1 < v1)) * s / c**2
    if kind == "ciou":
        angle = math.atan(tw / th) - math.atan(pw / ph)
        aspect = 4 / math.pi**2 * angle**2
        alpha = aspect / (1 - i / u + aspect + 1e-6)
        dw += alpha * 8 / math.pi**2 * angle * ph
        dh -= alpha * 8 / math.pi**2 * angle * pw
    return [dx, dy, dw, dh]


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("coder", [EXP, LOGISTIC])
def test_gradients_are_darknets(kind: str, coder: GridCoder) -> None:
    """Outputs are adjusted by iou_normalizer times the slope; tw and th also by exp(tw). With ``new_coords`` the
    convolution's logistic function has its own slope, and nothing else counts, not even scale_x_y."""
    rng = random.Random(1)
    for _ in range(200):
        raw = [rng.uniform(-1, 1) for _ in range(4)]
        scale = rng.choice((1.0, 1.05, 2.0))
        prediction = coder.decode(torch.tensor([[raw]]), prior(scale))[0, 0] / 1000
        x1, y1, x2, y2 = prediction.tolist()
        pred = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        truth = tuple(v + rng.uniform(-0.3, 0.3) * side for v, side in zip(pred, pred[2:] * 2, strict=True))
        x, y, w, h = (1000 * v for v in truth)
        slopes = darknet(pred, truth, kind)
        if coder is EXP:
            expected = [-s * f for s, f in zip(slopes, (1, 1, math.exp(raw[2]), math.exp(raw[3])), strict=True)]
        else:
            expected = [-s * math.exp(-r) / (1 + math.exp(-r)) ** 2 for s, r in zip(slopes, raw, strict=True)]
        box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        found = gradient(DarknetIoU(kind), torch.tensor([[raw]]), box, coder, scale)  # type: ignore[arg-type]
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("coder", [EXP, LOGISTIC])
def test_values_are_the_loss_and_steps_reduce_it(kind: str, coder: GridCoder) -> None:
    """The value is that of the plain loss on a square canvas; descending the gradient fits the box."""
    loss = DarknetIoU(kind)  # type: ignore[arg-type]
    box = torch.tensor([[[380.0, 420, 560, 530]]])
    deltas = torch.tensor([[[0.5, -1.0, 0.3, -0.4]]])
    torch.testing.assert_close(loss(deltas, prior(), box, coder), PLAIN[kind](deltas, prior(), box, coder))
    deltas = deltas.clone().requires_grad_()
    optimizer = torch.optim.Adam([deltas], 0.02)
    for _ in range(600):
        optimizer.zero_grad()
        value = loss(deltas, prior(2.0), box, coder)
        value.sum().backward()
        optimizer.step()
    assert value.item() < 0.1


def test_any_boxes_have_finite_gradients() -> None:
    torch.manual_seed(0)
    deltas = torch.randn(1, 200, 4) * 30
    priors = prior().expand(1, 200, 9)
    boxes = torch.rand(1, 200, 4) * 1000
    boxes[:, :50, 2:] = boxes[:, :50, :2]
    for coder in (EXP, LOGISTIC):
        for kind in PLAIN:
            given = deltas.clone().requires_grad_()
            DarknetIoU(kind)(given, priors, boxes, coder).sum().backward()  # type: ignore[arg-type]
            assert given.grad is not None and given.grad.isfinite().all()


def test_boxes_apart_approach_each_other() -> None:
    """Without overlap the plain IoU has no gradient, the others pull the center to the object."""
    for kind in PLAIN:
        dx, dy, *_ = gradient(DarknetIoU(kind), torch.zeros(1, 1, 4), [800, 400, 900, 500], EXP)  # type: ignore[arg-type]
        assert (dx == 0) if kind == "iou" else (dx < 0)
        assert dy == pytest.approx(0, abs=1e-4)


def test_other_coders_and_values_are_rejected() -> None:
    with pytest.raises(UsageError, match=r"needs a GridCoder and the priors Cells\. Use CIoU"):
        DarknetIoU()(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), Delta())
    with pytest.raises(UsageError, match="largest=0"):
        DarknetIoU(largest=0)
    with pytest.raises(UsageError, match="kind='mse'"):
        DarknetIoU("mse")  # type: ignore[arg-type]
