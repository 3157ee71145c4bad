"""Modules and parameters under dotted paths."""

from __future__ import annotations

from torch import nn


class Tree(nn.Module):
    """Modules and parameters under dotted paths, so that a state dict explains itself."""

    def add(self, path: str, item: nn.Module | nn.Parameter) -> None:
        """Put an item into the tree, making the containers in between.

        Args:
            path: Where, with dots.
            item: A module or a parameter.
        """
        *parents, name = path.split(".")
        node: nn.Module = self
        for parent in parents:
            children = dict(node.named_children())
            if parent not in children:
                node.add_module(parent, nn.Module())
            node = node.get_submodule(parent)
        if isinstance(item, nn.Parameter):
            node.register_parameter(name, item)
        else:
            node.add_module(name, item)

    def take(self, path: str) -> nn.Parameter:
        """Take a parameter out of the tree."""
        parent, _, name = path.rpartition(".")
        node, parameter = self.get_submodule(parent), self.get_parameter(path)
        delattr(node, name)
        return parameter
