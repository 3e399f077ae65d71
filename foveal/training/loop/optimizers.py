"""Which parameters learn, their groups, and the optimizer with its state as named tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...recipe import GradientStage, Recipe, Solver, Stage

# every norm layer of torch is one of these or a subclass
NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def trainable_names(module: nn.Module) -> frozenset[str]:
    """The names of the parameters that require a gradient now."""
    return frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad)


def check_trains(stage: Stage, trainable: Collection[str]) -> None:
    """Raises :class:`UsageError` where a stage names no trainable parameter."""
    for prefix in stage.trains:
        if not any(name.startswith(prefix) for name in trainable):
            raise UsageError(f"fit.stages: no trainable parameter's name starts with {prefix!r}")


def freeze(module: nn.Module, stage: Stage, trainable: frozenset[str]) -> None:
    """Freezes all parameters but those that the stage names and the detector can train (``trainable``)."""
    check_trains(stage, trainable)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trainable and name.startswith(stage.trains))


def frozen_norm_modules(module: nn.Module, trainable: frozenset[str]) -> tuple[nn.Module, ...]:
    """Batch norms that only this stage freezes: their statistics are frozen too."""
    frozen: list[nn.Module] = []
    for path, child in module.named_modules():
        parameters = [(f"{path}.{name}", p) for name, p in child.named_parameters(recurse=False)]
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and any(name in trainable for name, _ in parameters):
            frozen += [child] * (not any(p.requires_grad for _, p in parameters))
    return tuple(frozen)


def set_training_mode(module: nn.Module, trainable: frozenset[str]) -> None:
    """Training mode, except for the :func:`frozen_norm_modules` of the stage, which keep their statistics."""
    module.train()
    for norm in frozen_norm_modules(module, trainable):
        norm.eval()


def set_learning(module: nn.Module, stage: Stage, trainable: frozenset[str]) -> None:
    """Training mode, in which the parameters learn that the stage names: :func:`freeze`, :func:`set_training_mode`."""
    freeze(module, stage, trainable)
    set_training_mode(module, trainable)


def parameter_groups(module: nn.Module, fit: Recipe, stage: GradientStage) -> list[dict[str, Any]]:
    """Groups of equal learning rate and weight decay; ``scale`` is the factor on the stage's learning rate."""
    decay, depths = _settings(fit, stage).weight_decay, backbone_depths(module)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter, norm in _owned_parameters(module):
        if not parameter.requires_grad:
            continue
        bias = name.rpartition(".")[2] == "bias"
        exempt = (norm and not fit.norm_decay) or (bias and not norm and not fit.bias_decay)
        parts = name.split(".")
        scale = fit.bias_lr if bias and not norm else 1.0
        scale *= fit.backbone_lr * fit.backbone_decay ** (1 - depths[name]) if name in depths else 1.0
        scale *= fit.predictor_lr if "predictor" in parts else 1.0
        groups.setdefault((scale, 0.0 if exempt else decay), []).append(parameter)
    return [{"params": p, "scale": scale, "weight_decay": d, "lr": 0.0} for (scale, d), p in groups.items()]


def backbone_depths(module: nn.Module) -> dict[str, float]:
    """The depth of each parameter under ``backbone``: 0 in the first layer, 1 in the last, in steps of a tenth.

    A layer is a weight of two or more dimensions, in the order of definition, with the biases and norms after it. Few
    steps make few groups, so that the optimizer stays fast.
    """
    layers: dict[str, int] = {}
    number = -1
    for name, parameter, norm in _owned_parameters(module):
        if "backbone" in name.split("."):
            number += parameter.dim() > 1 and not norm
            layers[name] = max(0, number)
    return {name: round(10 * layer / number) / 10 if number > 0 else 1.0 for name, layer in layers.items()}


def build_optimizer(module: nn.Module, fit: Recipe, stage: GradientStage) -> torch.optim.Optimizer:
    """The stage's optimizer over the parameters that learn now."""
    optimizer = _settings(fit, stage).build(parameter_groups(module, fit, stage))
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"]:
        # torch leaves the buffers unset until the first iteration, and uninitialized where that one is skipped
        for parameter in _optimized(optimizer):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Every buffer of the optimizer under ``parameter/buffer``."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter in _optimized(optimizer)
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_tensors`, for a new optimizer. The memory format follows the parameter."""
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        name, _, buffer = key.rpartition("/")
        parameter = parameters[name]
        if value.shape == parameter.shape and buffer != "step":
            optimizer.state[parameter][buffer] = torch.empty_like(parameter).copy_(value)
        else:
            optimizer.state[parameter][buffer] = value.to(parameter.device)


# ----------------------------------------------------------------------------------------------- inside
def _settings(fit: Recipe, stage: GradientStage) -> Solver:
    return stage.solver or fit.solver


def _optimized(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _owned_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """(name, parameter, whether a norm layer owns it), each parameter once."""
    seen: set[nn.Parameter] = set()
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield (f"{prefix}.{name}" if prefix else name), parameter, isinstance(owner, NORMS)
