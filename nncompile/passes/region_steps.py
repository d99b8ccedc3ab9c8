"""The steps of a region as fewer that compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from nncompile.passes.region_encoders import activation
from nncompile.passes.region_program import Kind, Opcode, Step
from nncompile.passes.values import constant


def fewer_steps(inner: Mapping[ir.Value, Step], results: Sequence[ir.Value]) -> dict[ir.Value, Step]:
    """The steps of a region without those that another can do as well.

    Args:
        inner: The step that computes each inner value, in an order in which they can run.
        results: The values that are read outside.
    """
    return _selected_once(_with_bias(_with_silu(inner, results), results), results)


def _alone(value: ir.Value, results: Sequence[ir.Value]) -> bool:
    return value not in results and len(value.uses()) == 1


def _with_silu(inner: Mapping[ir.Value, Step], results: Sequence[ir.Value]) -> dict[ir.Value, Step]:
    """The steps with `x * sigmoid(x)` as one, where nothing else reads the sigmoid."""
    steps = dict(inner)
    for value, step in inner.items():
        if step.opcode is not Opcode.MULTIPLY:
            continue
        for x, gate in (step.values, step.values[::-1]):
            sigmoid = steps.get(gate) if _alone(gate, results) else None
            if sigmoid and sigmoid.numbers == (Kind.SIGMOID,) and sigmoid.values == (x,):
                steps[value] = replace(activation(Kind.SILU, step.result), values=(x,))
                del steps[gate]
                break
    return steps


def _selected_once(inner: Mapping[ir.Value, Step], results: Sequence[ir.Value]) -> dict[ir.Value, Step]:
    """The steps with channels of selected channels as channels of the first value; a split shuffle, say."""
    steps = dict(inner)
    for value, step in inner.items():
        source = steps.get(step.values[0])
        if step.opcode is Opcode.SELECT and source is not None and source.opcode is Opcode.SELECT:
            count, *channels = step.numbers
            numbers = (count, *(source.numbers[1 + channel] for channel in channels))
            steps[value] = replace(step, values=source.values, numbers=numbers)
    read = {value for step in steps.values() for value in step.values} | set(results)
    return {v: step for v, step in steps.items() if v in read or step.opcode is not Opcode.SELECT}


def _with_bias(inner: Mapping[ir.Value, Step], results: Sequence[ir.Value]) -> dict[ir.Value, Step]:
    """The steps with a shift of each channel as the bias of the layer before it, where that has none."""
    steps = dict(inner)
    for value, step in inner.items():
        if not step.scales_channels:
            continue
        (source,), (scale, shift) = step.values, step.weights
        layer, factors = steps.get(source), constant(scale)
        if layer is None or factors is None or not (factors == 1).all() or not _alone(source, results):
            continue
        if layer.opcode in (Opcode.CONV, Opcode.LINEAR) and layer.weights[1] is None:
            steps[value] = replace(layer, weights=(layer.weights[0], shift))
            del steps[source]
    return steps
