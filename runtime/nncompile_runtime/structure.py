"""The nesting of a module's inputs and outputs, as plain data that needs no torch to rebuild."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
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


class FieldsOf(_Node):
    """A dict whose keys are attributes too, as Hugging Face's ModelOutput; rebuilt as `Fields`."""

    kind: Literal["fields"] = "fields"
    entries: Annotated[tuple[tuple[Identifier, Structure], ...], Field(max_length=4096)]
    absent: Annotated[tuple[Identifier, ...], Field(max_length=4096)] = ()

    @model_validator(mode="after")
    def _each_name_once(self) -> FieldsOf:
        names = [*(name for name, _ in self.entries), *self.absent]
        if len(set(names)) != len(names):
            raise ValueError("a name comes twice")
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
    Union[TensorLeaf, ConstantLeaf, SequenceOf, MappingOf, FieldsOf, RecordOf], Field(discriminator="kind")
]
SequenceOf.model_rebuild()
MappingOf.model_rebuild()
FieldsOf.model_rebuild()
RecordOf.model_rebuild()


class Fields(dict[str, Any]):
    """A dict whose values are had by key, by attribute and by position: `y["logits"]`, `y.logits`, `y[0]`.

    It stands for what Hugging Face's networks return, and answers as that does: an optional field that
    was not computed is None as an attribute, and neither a key nor a position.
    """

    __slots__ = ("_absent",)

    def __init__(self, entries: Mapping[str, Any], absent: Sequence[str] = ()) -> None:
        """Hold `entries`; the names in `absent` are attributes that are None."""
        super().__init__(entries)
        object.__setattr__(self, "_absent", frozenset(absent))

    def __getitem__(self, key: Any) -> Any:
        """The value of a key, or of a position or slice."""
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __getattr__(self, name: str) -> Any:
        """The value of a key; None for a field that was not computed."""
        if name in self:
            return self[name]
        if not name.startswith("_") and name in self._absent:
            return None
        raise AttributeError(f"no field {name!r}; there are {list(self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Refused: an attribute that is no key would be lost."""
        raise AttributeError(f"set the key instead: y[{name!r}] = ...")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as entries and absent names."""
        return Fields, (dict(self), tuple(sorted(self._absent)))

    def __repr__(self) -> str:
        """For example `Fields(logits=...)`."""
        return f"Fields({', '.join(f'{key}={value!r}' for key, value in self.items())})"

    def to_tuple(self) -> tuple[Any, ...]:
        """The values in order."""
        return tuple(self.values())


@lru_cache(maxsize=256)
def record(type_name: str, fields: tuple[str, ...]) -> Any:
    """A named tuple type that can be pickled though no module holds it; one for each name and fields."""
    base = namedtuple(type_name, fields)  # type: ignore[misc]  # names that are known only here

    def reduce(self: Any) -> tuple[Any, ...]:
        return _record_of, (type_name, fields, tuple(self))

    return type(type_name, (base,), {"__slots__": (), "__reduce__": reduce})


def _record_of(type_name: str, fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return record(type_name, fields)(*values)


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
    elif isinstance(structure, (FieldsOf, RecordOf)):
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


def _items(structure: SequenceOf | MappingOf | FieldsOf | RecordOf, value: Any, path: str) -> Sequence[Any]:
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
    if isinstance(structure, (FieldsOf, RecordOf)) and all(hasattr(value, str(key)) for key in keys):
        return [getattr(value, str(key)) for key in keys]
    raise StructureMismatchError(path, f"a {structure.kind} with {keys}", got)


def flattener(structure: Structure) -> Callable[[Any], list[Any]]:
    """The way back from what `unflattener` nested, without the checks of `flatten`: tensors in order."""
    ways = {leaf.index: way for leaf, way in _ways(structure)}
    in_order = [ways[index] for index in sorted(ways)]
    return lambda value: [way(value) for way in in_order]


def _ways(structure: Structure) -> Iterator[tuple[TensorLeaf, Callable[[Any], Any]]]:
    """Every tensor leaf, and a function from the nested value to it."""
    if isinstance(structure, TensorLeaf):
        yield structure, lambda value: value
    else:
        parts = [child for _, child in children(structure)]
        keys: Sequence[Any] = range(len(parts))
        if isinstance(structure, (MappingOf, FieldsOf)):
            keys = [key for key, _ in structure.entries]
        for step, child in zip(map(itemgetter, keys), parts, strict=True):
            for leaf, way in _ways(child):
                yield leaf, step if child is leaf else partial(_in_turn, step, way)


def _in_turn(first: Callable[[Any], Any], then: Callable[[Any], Any], value: Any) -> Any:
    return then(first(value))


def unflattener(structure: Structure) -> Callable[[Sequence[Any]], Any]:
    """A function that nests a flat list of tensors as `structure` says."""
    if isinstance(structure, TensorLeaf):
        return itemgetter(structure.index)
    if isinstance(structure, ConstantLeaf):
        constant = structure.value
        return lambda _flat: constant
    parts = [unflattener(child) for _, child in children(structure)]
    if isinstance(structure, MappingOf):
        named = [(key, part) for (key, _), part in zip(structure.entries, parts, strict=True)]
        return lambda flat: {key: part(flat) for key, part in named}
    if isinstance(structure, FieldsOf):
        names, absent = [name for name, _ in structure.entries], structure.absent
        return lambda flat: Fields({n: part(flat) for n, part in zip(names, parts, strict=True)}, absent)
    if isinstance(structure, RecordOf):
        rebuilt = record(structure.type_name, tuple(field for field, _ in structure.entries))
        return lambda flat: rebuilt(*(part(flat) for part in parts))
    if structure.kind == "tuple":
        return lambda flat: tuple([part(flat) for part in parts])  # faster than a generator
    return lambda flat: [part(flat) for part in parts]
