"""The steps of a region as fewer that compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from nncompile.passes.region_channels import MOST_CHANNELS
from nncompile.passes.region_encoders import activation
from nncompile.passes.region_program import Kind, Opcode, Sample, Step, made_weight
from nncompile.passes.values import constant, weights

_MANY_OF_ONE = 8  # channels, as many as fill half a vector


def fewer_steps(
    entering: Mapping[ir.Value, Sample], inner: Mapping[ir.Value, Step], results: Sequence[ir.Value]
) -> dict[ir.Value, Step]:
    """The steps of a region without those that another can do as well.

    A convolution whose groups make a few channels of one each is the exception: it becomes two steps.

    Args:
        entering: What the region reads.
        inner: The step that computes each inner value, in an order in which they can run.
        results: The values that are read outside.
    """
    steps = dict(inner)
    for fewer in (_with_silu, _with_star_relu, _with_bias, _response_normalized, _selected_once):
        steps = fewer(steps, results)
    return _depthwise(entering, steps)


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


def _with_star_relu(inner: Mapping[ir.Value, Step], results: Sequence[ir.Value]) -> dict[ir.Value, Step]:
    """The steps with `a relu(x)^2 + b` as one, where nothing else reads what it is made of.

    (StarReLU: Yu et al., "MetaFormer Baselines for Vision", arXiv:2210.13452, section 3.4.)
    """
    steps = dict(inner)
    for value, step in inner.items():
        if step.opcode is Opcode.MULTIPLY and step.values[0] is step.values[1]:
            (x, _), readers = step.values, {node for node, _ in step.values[0].uses()}
            relu = steps.get(x) if x not in results and len(readers) == 1 else None
            if relu is not None and relu.numbers == (Kind.RELU,):
                steps[value] = replace(activation(Kind.STAR_RELU, step.result, 1.0, 0.0), values=relu.values)
                del steps[x]
        elif step.scales_channels and _alone(step.values[0], results):
            star = steps.get(step.values[0])
            scale, shift = (_one_number(weight) for weight in step.weights)
            if star is None or star.numbers != (Kind.STAR_RELU,) or scale is None or shift is None:
                continue
            a, b = (float(number or 0) for number in star.constants)
            with np.errstate(over="ignore"):
                folded = np.array([a * scale, b * scale + shift]).astype(np.float32)
            if np.isfinite(folded).all():
                steps[value] = replace(star, constants=tuple(folded.tolist()))
                del steps[step.values[0]]
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


def _depthwise(entering: Mapping[ir.Value, Sample], inner: Mapping[ir.Value, Step]) -> dict[ir.Value, Step]:
    """The steps with convolutions that make a few channels of each as depthwise ones of repeated channels.

    Those fill the vectors of the kernels, which such a group would leave idle (FastViT's patch embeddings).
    """
    steps: dict[ir.Value, Step] = {}
    for value, step in inner.items():
        if step.opcode is Opcode.CONV and _makes_few_of_one(step):
            outputs, groups = weights(step.weights[0]).shape[0], step.numbers[-1]
            (source,) = step.values
            read = inner[source].result if source in inner else entering[source]
            picked = replace(read, shape=(outputs, *read.shape[1:]))
            channels = np.repeat(np.arange(groups), outputs // groups).tolist()
            repeated = ir.Value(name=f"{value.name}_repeated")
            steps[repeated] = Step(Opcode.SELECT, picked, step.values, (), (outputs, *channels))
            step = replace(step, values=(repeated,), numbers=(*step.numbers[:-1], outputs))
        steps[value] = step
    return steps


def _makes_few_of_one(conv: Step) -> bool:
    outputs, inputs = map(int, weights(conv.weights[0]).shape[:2])
    groups = conv.numbers[-1]
    return groups > 1 == inputs and 1 < outputs // groups < _MANY_OF_ONE and outputs <= MOST_CHANNELS


def _with_bias(inner: Mapping[ir.Value, Step], results: Sequence[ir.Value]) -> dict[ir.Value, Step]:
    """The steps with a shift of each channel as the bias of the layer before it, where that has none."""
    steps = dict(inner)
    for value, step in inner.items():
        if not step.scales_channels:
            continue
        (source,), (scale, shift) = step.values, step.weights
        layer = steps.get(source)
        if layer is None or not _is(scale, 1) or not _alone(source, results):
            continue
        if layer.opcode in (Opcode.CONV, Opcode.LINEAR) and layer.weights[1] is None:
            steps[value] = replace(layer, weights=(layer.weights[0], shift))
            del steps[source]
    return steps


def _response_normalized(inner: Mapping[ir.Value, Step], results: Sequence[ir.Value]) -> dict[ir.Value, Step]:
    """The steps with `x + k (x g) + b` as `x (1 + k g) + b`, whose planes are read once.

    g is the norm of each plane of x, divided: where a plane holds infinity it is NaN, as both results are.
    """
    steps = dict(inner)
    for value, total in inner.items():
        if total.opcode is not Opcode.ADD:
            continue
        for x, scaled in (total.values, total.values[::-1]):
            shifted, shift = scaled, steps.get(scaled)
            if shift and shift.scales_channels and _is(shift.weights[0], 1) and _alone(scaled, results):
                (scaled,) = shift.values
            scale = steps.get(scaled)
            product = steps.get(scale.values[0]) if scale and scale.scales_channels else None
            if scale is None or product is None or product.opcode is not Opcode.MULTIPLY:
                continue
            gate = steps.get(product.values[1])
            if (
                gate is None
                or not _is_response(gate, x, steps)
                or product.values[0] is not x
                or not _is(scale.weights[1], 0)
                or not (_alone(scaled, results) and _alone(scale.values[0], results))
            ):
                continue
            ones = made_weight(f"{scaled.name}_ones", np.ones(gate.result.shape[0], np.float32))
            steps[scaled] = replace(
                scale, result=gate.result, values=product.values[1:], weights=(scale.weights[0], ones)
            )
            steps[shifted if shifted is not scaled else value] = replace(product, values=(x, scaled))
            if shift is not None and shifted is not scaled:
                steps[value] = replace(shift, values=(shifted,))
            del steps[scale.values[0]]
            break
    return steps


def _is_response(gate: Step, x: ir.Value, steps: Mapping[ir.Value, Step]) -> bool:
    norm = steps.get(gate.values[0]) if gate.opcode is Opcode.DIVIDE else None
    return norm is not None and norm.opcode is Opcode.PLANE_NORM and norm.values == (x,)


def _is(weight: ir.Value | None, number: float) -> bool:
    return _one_number(weight) == number


def _one_number(weight: ir.Value | None) -> float | None:
    """The number that all elements of a weight are; None where they differ."""
    array = constant(weight)
    return float(array.flat[0]) if array is not None and (array == array.flat[0]).all() else None
