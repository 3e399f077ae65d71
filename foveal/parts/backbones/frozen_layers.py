"""The frozen first layers of a backbone: which they are, what they compute, and the backbone with that given.

Nothing is known of the network but its modules: one run of a small image shows which modules have outputs that depend
on the pixels alone, and another one which of these outputs the other layers need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError

_PROBE = (192, 256)  # pixels

Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class FrozenLayers:
    """The frozen layers before the first one that learns.

    ``layers`` are called one after the other, each once, and return one tensor each; the other layers of ``backbone``
    need the outputs of ``needed``.
    """

    backbone: nn.Module
    layers: Sequence[nn.Module]
    needed: Sequence[nn.Module]

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Pixels (B, 3, H, W) -> the needed outputs, (B, c, h, w) each. The other layers are not run."""
        found: dict[nn.Module, Tensor] = {}

        def noted(layer: nn.Module) -> Forward:
            forward = layer.forward

            def run(*args: Tensor) -> Tensor:
                found[layer] = forward(*args)
                if layer is self.layers[-1]:
                    raise _Done
                return found[layer]

            return run

        with _forwards({layer: noted(layer) for layer in self.layers}), suppress(_Done):
            self.backbone(pixels)
        return [found[layer] for layer in self.needed]

    @contextmanager
    def given(self, maps: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the backbone computes with these outputs of the needed layers, whatever the pixels are."""

        def result(output: Tensor) -> Forward:
            return lambda *args: output

        outputs = dict(zip(self.needed, maps, strict=True))
        nothing = maps[0].new_zeros((len(maps[0]), 1, 1, 1))  # of layers whose output is not needed
        with _forwards({layer: result(outputs.get(layer, nothing)) for layer in self.layers}):
            yield


class _Done(Exception):
    """The last frozen layer has been run."""


def find_frozen_layers(backbone: nn.Module) -> FrozenLayers | None:
    """The frozen layers before the first one that learns; ``None``: there are none.

    A layer whose output is random or whose statistics move in training, such as dropout or batch norm, is not frozen.
    Raises :class:`UsageError` for a network that cannot be divided there.
    """
    parameter = next(backbone.parameters())
    count = 3 * _PROBE[0] * _PROBE[1]
    pixels = torch.linspace(-1, 1, count, device=parameter.device).view(1, 3, *_PROBE)
    varying = {module for module in backbone.modules() if _varies(module)}
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    try:
        layers = _constant_layers(backbone, pixels, varying)
        if not layers:
            return None
        found = FrozenLayers(backbone, layers, _needed(backbone, pixels, layers))
        with torch.no_grad():
            expected = list(backbone(pixels))
            with found.given(found(pixels)):
                divided = list(backbone(pixels))
        if any(not torch.allclose(a, b, 1e-3, 1e-4) for a, b in zip(expected, divided, strict=True)):
            raise UsageError(
                f"{type(backbone).__name__} cannot be divided where its frozen layers end",
                fix="Leave out fit.frozen_maps for this backbone",
            )
        return found
    finally:
        for module in training:
            module.training = True


def _varies(module: nn.Module) -> bool:
    """Whether the output of a layer is random, or its statistics move, in its present mode."""
    if not module.training:
        return False
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return True
    settings = vars(module)
    chance = settings.get("drop_prob", settings.get("p", 0.0))  # timm, torch and torchvision
    return isinstance(chance, int | float) and chance > 0


@dataclass
class _Call:
    layer: nn.Module
    outside: _Call | None  # the call that it is made from
    constant: bool = False  # its output is one tensor that depends on the pixels alone


def _constant_layers(backbone: nn.Module, pixels: Tensor, varying: set[nn.Module]) -> list[nn.Module]:
    """The largest modules whose output depends on the pixels alone, up to the last of them with parameters."""
    calls: list[_Call] = []
    stack: list[_Call] = []

    def begin(layer: nn.Module, args: Any) -> None:
        stack.append(_Call(layer, stack[-1] if stack else None))
        calls.append(stack[-1])

    def end(layer: nn.Module, args: Any, output: Any) -> None:
        stack.pop().constant = isinstance(output, Tensor) and not output.requires_grad

    def learn(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_().clone()  # as if it had parameters that learn

    with ExitStack() as hooks:
        for layer in backbone.modules():
            if layer in varying:
                hooks.callback(layer.register_forward_hook(learn).remove)
            hooks.callback(layer.register_forward_pre_hook(begin).remove)
            hooks.callback(layer.register_forward_hook(end).remove)
        with torch.enable_grad():
            backbone(pixels)
    times = Counter(call.layer for call in calls)
    for call in calls:
        call.constant = call.constant and times[call.layer] == 1
    largest = [call for call in calls if call.constant and not (call.outside and call.outside.constant)]
    owners = [i for i, call in enumerate(largest) if any(True for _ in call.layer.parameters())]
    if not owners:
        return []
    last = owners[-1]
    # an activation or a pool right after it, but none inside of a block that learns
    while last + 1 < len(largest) and largest[last + 1].outside is largest[owners[-1]].outside:
        last += 1
    return [call.layer for call in largest[: last + 1]]


def _needed(backbone: nn.Module, pixels: Tensor, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Those of ``layers`` whose outputs others than ``layers`` need: by the gradients, which each layer cuts off."""
    outputs: dict[nn.Module, Tensor] = {}

    def cut(layer: nn.Module) -> Forward:
        forward = layer.forward

        def run(*args: Tensor) -> Tensor:
            with torch.no_grad():
                outputs[layer] = forward(*args)
            outputs[layer] = outputs[layer].detach().requires_grad_()
            return outputs[layer].clone()  # which a layer may change in place

        return run

    with _forwards({layer: cut(layer) for layer in layers}), torch.enable_grad():
        total = torch.stack([m.sum() for m in backbone(pixels)]).sum()
    gradients = torch.autograd.grad(total, list(outputs.values()), allow_unused=True)
    return [layer for layer, gradient in zip(outputs, gradients, strict=True) if gradient is not None]


@contextmanager
def _forwards(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Inside, these modules compute something else; their hooks are called as ever."""
    for layer, forward in forwards.items():
        cast(Any, layer).forward = forward
    try:
        yield
    finally:
        for layer in forwards:
            del layer.__dict__["forward"]
