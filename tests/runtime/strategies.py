"""Hypothesis strategies for manifests."""

from __future__ import annotations

import math
from typing import Any, get_args

from hypothesis import strategies as st

from nncompile_runtime.manifest import (
    Argument,
    DType,
    FreeSize,
    Manifest,
    OutputRecord,
    Signature,
    TensorSpec,
    Verification,
)
from nncompile_runtime.structure import ConstantLeaf, MappingOf, RecordOf, SequenceOf, TensorLeaf

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
identifiers = st.from_regex(r"[A-Z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in ("None", "True", "False")
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.integers(0, 10**12)
errors = st.floats(0, allow_nan=False)
special = st.sampled_from([math.inf, -math.inf])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), special, texts
)


@st.composite
def structures(draw: st.DrawFn, tensors: int) -> Any:
    """A structure whose tensor leaves are 0..tensors-1 in a drawn order."""
    order = draw(st.permutations(range(tensors)))
    parts: list[Any] = [TensorLeaf(index=i) for i in order]
    parts += [ConstantLeaf(value=value) for value in draw(st.lists(scalars, max_size=3))]
    while len(parts) > 1 or draw(st.booleans()):
        count = draw(st.integers(1, len(parts)))
        taken, parts = parts[:count], parts[count:]
        kind = draw(st.sampled_from(["tuple", "list", "dict", "record"]))
        if kind in ("tuple", "list"):
            made: Any = SequenceOf(kind=kind, items=tuple(taken))
        else:
            keys = identifiers if kind == "record" else st.one_of(names, st.integers(-(2**63), 2**63))
            drawn = draw(st.lists(keys, min_size=count, max_size=count, unique=True))
            entries = tuple(zip(drawn, taken, strict=True))
            record = kind == "record"
            made = RecordOf(type_name="Out", entries=entries) if record else MappingOf(entries=entries)
        parts.append(made)
    return parts[0]


@st.composite
def free_sizes(draw: st.DrawFn) -> FreeSize:
    """A row of sizes that holds its typical one."""
    least, step, steps = draw(st.integers(1, 2**20)), draw(st.integers(1, 64)), draw(st.integers(0, 99))
    typical = least + step * steps
    return FreeSize(
        least=least, step=step, most=draw(st.none() | st.integers(typical, 2**40)), typical=typical
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    dimensions = st.lists(st.one_of(st.integers(0, 2**40), names), max_size=5).map(tuple)
    specs = st.builds(TensorSpec, name=names, dtype=st.sampled_from(get_args(DType)), shape=dimensions)
    inputs, outputs = draw(st.lists(specs, max_size=3)), draw(st.lists(specs, min_size=1, max_size=3))
    argument = (
        Argument(name=draw(names), structure=draw(structures(len(inputs))), keyword_only=draw(st.booleans()))
        if inputs
        else None
    )
    signature = Signature(
        arguments=(argument,) if argument else (),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        result=draw(structures(len(outputs))),
        batch=draw(st.none() | names),
        sizes=draw(st.dictionaries(names, free_sizes(), max_size=2)),
    )
    values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
    records = st.builds(
        OutputRecord, name=names, max_abs=errors, max_rel=errors, eager_max_abs=errors,
        top1_agreement=st.none() | st.floats(0, 1),
    )  # fmt: skip
    verification = draw(
        st.builds(
            Verification, status=st.sampled_from(["verified", "skipped"]), cases=counts, rtol=errors,
            batches=st.lists(counts, max_size=3).map(tuple), rows_independent=st.booleans(),
            outputs=st.lists(records, max_size=2).map(tuple),
        )
    )  # fmt: skip
    return Manifest(
        producer=draw(st.dictionaries(names, texts, max_size=3)),
        model_name=draw(names),
        signature=signature,
        verification=verification,
        labels=draw(st.none() | st.lists(texts, max_size=4).map(tuple)),
        plans=draw(st.dictionaries(names, st.dictionaries(names, values, max_size=3), max_size=2)),
    )
