"""The nesting of a module's inputs and outputs, as plain data that needs no torch to rebuild."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_serializer,
    field_validator,
    model_validator,
)

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
Scalar = Union[bool, int, float, Annotated[str, StringConstraints(max_length=4096)], None]


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class TensorLeaf(_Node):
    """A tensor: number `index` of the flat list of graph inputs or outputs."""

    kind: Literal["tensor"] = "tensor"
    index: Annotated[int, Field(ge=0, le=4096)]


class ConstantLeaf(_Node):
    """A value that is no tensor; fixed when the module was captured."""

    kind: Literal["constant"] = "constant"
    value: Scalar

    @field_serializer("value", when_used="json")
    def _in_json(self, value: Scalar) -> Any:
        """JSON has no infinity and no NaN, and a string is another constant."""
        return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value

    @field_validator("value", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        if isinstance(value, dict) and list(value) == ["float"] and value["float"] in ("inf", "-inf", "nan"):
            return float(value["float"])
        return value


class SequenceOf(_Node):
    """A tuple or a list."""

    kind: Literal["tuple", "list"]
    items: Annotated[tuple[Structure, ...], Field(max_length=4096)]


class MappingOf(_Node):
    """A dict, in insertion order."""

    kind: Literal["dict"] = "dict"
    entries: Annotated[tuple[tuple[Union[int, Name], Structure], ...], Field(max_length=4096)]

    @model_validator(mode="after")
    def _each_key_once(self) -> MappingOf:
        if len({key for key, _ in self.entries}) != len(self.entries):
            raise ValueError("a key comes twice")
        return self


class RecordOf(_Node):
    """A named tuple or a dataclass; rebuilt as a named tuple of the same type and field names."""

    kind: Literal["record"] = "record"
    type_name: Identifier
    entries: Annotated[tuple[tuple[Identifier, Structure], ...], Field(max_length=4096)]

    @model_validator(mode="after")
    def _can_be_rebuilt(self) -> RecordOf:
        namedtuple(self.type_name, [field for field, _ in self.entries])
        return self


Structure = Annotated[
    Union[TensorLeaf, ConstantLeaf, SequenceOf, MappingOf, RecordOf], Field(discriminator="kind")
]
SequenceOf.model_rebuild()
MappingOf.model_rebuild()
RecordOf.model_rebuild()


class StructureMismatchError(Exception):
    """A value does not have the expected nesting. `path` says where, for example `state[1].h`."""

    def __init__(self, path: str, expected: str, got: str) -> None:
        """Say where, what was expected and what was there."""
        super().__init__(path, expected, got)
        self.path, self.expected, self.got = path, expected, got


def leaves(structure: Structure, path: str = "") -> Iterator[tuple[str, TensorLeaf]]:
    """Every tensor leaf with its path below `path`, in order."""
    if isinstance(structure, TensorLeaf):
        yield path, structure
    else:
        for key, child in children(structure):
            yield from leaves(child, path + key)


def children(structure: Structure) -> Iterator[tuple[str, Structure]]:
    """The direct children with the path step that leads to each."""
    if isinstance(structure, SequenceOf):
        for i, item in enumerate(structure.items):
            yield f"[{i}]", item
    elif isinstance(structure, MappingOf):
        for key, item in structure.entries:
            yield f"[{key!r}]", item
    elif isinstance(structure, RecordOf):
        for field, item in structure.entries:
            yield f".{field}", item


def flatten(structure: Structure, value: Any, into: list[Any], path: str) -> None:
    """Put the tensors of `value` into their places of the flat list `into`.

    Raises:
        StructureMismatchError: `value` is nested otherwise than `structure`, or holds another constant.
    """
    if isinstance(structure, TensorLeaf):
        into[structure.index] = value
    elif isinstance(structure, ConstantLeaf):
        same = value == structure.value or (value != value and structure.value != structure.value)
        if type(value) is not type(structure.value) or not same:
            raise StructureMismatchError(path, f"the constant {structure.value!r}", repr(value)[:80])
    else:
        for (step, child), item in zip(children(structure), _items(structure, value, path), strict=True):
            flatten(child, item, into, path + step)


def _items(structure: SequenceOf | MappingOf | RecordOf, value: Any, path: str) -> Sequence[Any]:
    got = f"{type(value).__name__}"
    if isinstance(structure, SequenceOf):
        wanted = f"a {structure.kind} of {len(structure.items)}"
        if not isinstance(value, (tuple, list)):
            raise StructureMismatchError(path, wanted, got)
        if len(value) != len(structure.items):
            raise StructureMismatchError(path, wanted, f"{got} of {len(value)}")
        return value
    keys = [key for key, _ in structure.entries]
    if isinstance(value, Mapping):
        if set(value) != set(keys):
            raise StructureMismatchError(path, f"the keys {keys}", f"the keys {list(value)[:20]}")
        return [value[key] for key in keys]
    if isinstance(structure, RecordOf) and all(hasattr(value, str(key)) for key in keys):
        return [getattr(value, str(key)) for key in keys]
    raise StructureMismatchError(path, f"a {structure.kind} with {keys}", got)


def unflattener(structure: Structure) -> Callable[[Sequence[Any]], Any]:
    """A function that nests a flat list of tensors as `structure` says."""
    if isinstance(structure, TensorLeaf):
        index = structure.index
        return lambda flat: flat[index]
    if isinstance(structure, ConstantLeaf):
        constant = structure.value
        return lambda _flat: constant
    parts = [unflattener(child) for _, child in children(structure)]
    if isinstance(structure, MappingOf):
        keys = [key for key, _ in structure.entries]
        return lambda flat: {key: part(flat) for key, part in zip(keys, parts, strict=True)}
    if isinstance(structure, RecordOf):
        record = namedtuple(structure.type_name, [field for field, _ in structure.entries])  # type: ignore[misc]
        return lambda flat: record(*(part(flat) for part in parts))
    container: Callable[[Any], Any] = tuple if structure.kind == "tuple" else list
    return lambda flat: container(part(flat) for part in parts)
