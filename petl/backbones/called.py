"""Layers whose weight a backbone uses without calling them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn


class CalledLayer:
    """A linear layer that is called where its parent takes its weight for a product of its own.

    Some attentions compute `F.linear(x, self.qkv.weight, bias)`, so that no hook on `qkv` ever runs. While the parent
    runs, something else stands for that weight: asked for the product, it calls the layer, with the same bias. The
    numbers are the same to the last digit, the parameter stays where it is, and whatever is hooked on the layer acts.

    Args:
        parent: The module that uses the weight.
        layer: The linear layer.
    """

    def __init__(self, parent: nn.Module, layer: nn.Module) -> None:
        stand_in = _Shadow(layer)
        self._hooks = (
            parent.register_forward_pre_hook(stand_in.put),
            parent.register_forward_hook(stand_in.take, always_call=True),
        )

    def remove(self) -> None:
        """Let the parent use the weight itself again."""
        for hook in self._hooks:
            hook.remove()


class _Shadow:
    """What stands for the weight of a layer."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def put(self, parent: nn.Module, args: tuple[Any, ...]) -> None:
        vars(self.layer)["weight"] = self

    def take(self, parent: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        vars(self.layer).pop("weight", None)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        named = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
        shadow, bias = named["weight"], named.get("bias")
        return shadow.product(named["input"], bias)

    def product(self, x: Tensor, bias: Tensor | None) -> Any:
        own = vars(self.layer)
        del own["weight"]
        own["bias"] = bias
        try:
            return self.layer(x)
        finally:
            del own["bias"]
            own["weight"] = self
