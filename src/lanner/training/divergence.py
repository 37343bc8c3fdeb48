"""Finds where a diverged model first computes a value that is not finite."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def first_not_finite(module: nn.Module, run: Callable[[], Any]) -> str | None:
    """The first parameter, or else the first layer in order of computation, of ``module`` with a non-finite value.

    run: the computation, repeated here without gradient. None: no layer of ``module`` gives such a value.
    """
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"parameter {name}"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(layer: nn.Module, given: Any, out: Any) -> None:
            if not found and isinstance(out, torch.Tensor) and not torch.isfinite(out).all():
                found.append(name)

        return look

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in module.named_modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return f"layer {found[0]}" if found else None
