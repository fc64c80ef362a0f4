"""Trees of tensors: frozen dataclasses and tuples whose leaves are tensors, None or constants.

Weights and states of HOPE models are such trees. Knows nothing about what they mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def named_tensors(tree: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its dotted path, in declaration order: ("blocks.0.fast.conv", ...)."""
    if isinstance(tree, Tensor):
        yield prefix, tree
        return
    for name, child in _children(tree):
        yield from named_tensors(child, f"{prefix}.{name}" if prefix else name)


def map_tensors(function: Callable[..., Tensor], tree: T, *others: T) -> T:
    """The same tree with each tensor replaced by function(it, and its counterparts in `others`).

    A tree that has a tensor where another has None is a mistake of the caller: AssertionError.
    """
    if isinstance(tree, Tensor):
        return function(tree, *others)  # type: ignore[return-value]
    if isinstance(tree, tuple):
        assert all(len(other) == len(tree) for other in others)  # type: ignore[arg-type]
        return tuple(map_tensors(function, *parts) for parts in zip(tree, *others, strict=True))  # type: ignore[return-value]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        changed = {
            item.name: map_tensors(
                function,
                getattr(tree, item.name),
                *(getattr(other, item.name) for other in others),
            )
            for item in dataclasses.fields(tree)
        }
        return dataclasses.replace(tree, **changed)
    assert not any(isinstance(other, Tensor) for other in others)
    return tree


def with_tensors(tree: T, tensors: Mapping[str, Tensor], prefix: str = "") -> T:
    """The same tree with the tensors of `named_tensors` replaced by those of `tensors`.

    Raises KeyError for a path that is missing.
    """
    if isinstance(tree, Tensor):
        return tensors[prefix]  # type: ignore[return-value]
    changed = {
        name: with_tensors(child, tensors, f"{prefix}.{name}" if prefix else name)
        for name, child in _children(tree)
    }
    if isinstance(tree, tuple):
        return tuple(changed.values())  # type: ignore[return-value]
    return dataclasses.replace(tree, **changed) if changed else tree  # type: ignore[type-var]


def _children(tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, tuple):
        for index, child in enumerate(tree):
            yield str(index), child
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for item in dataclasses.fields(tree):
            yield item.name, getattr(tree, item.name)
