"""Flat values as the arguments of `forward`: where each goes."""

from __future__ import annotations

from nncompile_runtime.manifest import Argument
from nncompile_runtime.nesting import Nesting
from nncompile_runtime.structure import ConstantLeaf, MappingOf, SequenceOf, TensorLeaf

LEAVES = [TensorLeaf(index=i) for i in range(4)]


def test_nested_and_constant_arguments_stand_in_their_places() -> None:
    pair = SequenceOf(kind="tuple", items=(LEAVES[2], LEAVES[0]))
    arguments = [
        Argument(name="x", structure=LEAVES[1]),
        Argument(name="pair", structure=pair),
        Argument(name="times", structure=ConstantLeaf(value=3)),
        Argument(name="state", structure=MappingOf(entries=(("h", LEAVES[3]),)), keyword_only=True),
    ]
    positional, by_name = Nesting(arguments)(["a", "b", "c", "d"])
    assert positional == ["b", ("c", "a"), 3]
    assert by_name == {"state": {"h": "d"}}


def test_a_model_without_inputs() -> None:
    assert Nesting([])([]) == ([], {})
