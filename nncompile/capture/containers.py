"""Classes that hold tensors and that torch cannot take apart, made known to it while a module is captured.

torch.export follows tuples, lists, dicts and named tuples, and what was registered. Dataclasses and
subclasses of dict need no registration by the user here; torch's registry is left as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import _pytree as pytree


@contextmanager
def known_containers() -> Iterator[Callable[[Any], None]]:
    """Yields a function that makes the classes inside a value known to torch; all is undone at the end."""
    registered: list[type] = []

    def make_known(value: Any) -> None:
        for leaf in pytree.tree_leaves(value):
            kind = type(leaf)
            if kind in registered or not (isinstance(leaf, dict) or dataclasses.is_dataclass(kind)):
                continue
            _register(kind)
            registered.append(kind)
            make_known(leaf)

    try:
        yield make_known
    finally:
        for kind in registered:
            pytree._deregister_pytree_node(kind)


def _register(kind: type) -> None:
    """Register a class by its entries; torch's own `register_dataclass` forgets the fields that are None."""

    def entries(value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return dict(value.items())
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}

    def take_apart(value: Any) -> tuple[list[Any], Any]:
        parts = entries(value)
        return list(parts.values()), list(parts)

    def take_apart_with_keys(value: Any) -> tuple[list[Any], Any]:
        parts = entries(value)
        return [(pytree.MappingKey(key), part) for key, part in parts.items()], list(parts)

    def put_together(values: Any, keys: Any) -> Any:
        parts = dict(zip(keys, values, strict=True))
        return kind(**parts) if dataclasses.is_dataclass(kind) else kind(parts)

    pytree._private_register_pytree_node(
        kind,
        take_apart,
        put_together,
        serialized_type_name=f"nncompile.capture.{kind.__module__}.{kind.__qualname__}.{id(kind)}",
        flatten_with_keys_fn=take_apart_with_keys,
    )
