"""An interpreter of regions' programs, in PyTorch: what each instruction means."""

import onnx
import torch
from torch.nn import functional

from nncompile.passes.region_program import Opcode, Resizing

SEQUENCE, LAST = 3, 5  # the layouts of N x H x C and N x H x W x C
ACTIVATIONS = {
    1: lambda x, a, b: torch.relu(x),
    2: lambda x, a, b: x.clamp(a, b),
    3: lambda x, a, b: functional.leaky_relu(x, a),
    4: lambda x, a, b: functional.silu(x),
    5: lambda x, a, b: functional.hardswish(x),
    6: lambda x, a, b: torch.sigmoid(x),
    7: lambda x, a, b: torch.tanh(x),
    8: lambda x, a, b: (a * x + b).clamp(0, 1),
    9: lambda x, a, b: functional.gelu(x),
    10: lambda x, a, b: a * torch.relu(x) ** 2 + b,
}


def padded(x, pads, ceil, kernel, strides, value):
    """The plane with its padding, and what rounding up makes of the last window."""
    top, left, bottom, right = pads
    if ceil:
        for_rows, for_columns = (
            -(size + sum(p) - k) % s
            for size, p, k, s in zip(
                x.shape[2:], ((top, bottom), (left, right)), kernel, strides, strict=True
            )
        )
        bottom, right = bottom + for_rows, right + for_columns
    return functional.pad(x, (left, right, top, bottom), value=value)


def pool(opcode, x, fields):
    kernel, strides, pads, ceil = fields[:2], fields[2:4], fields[4:8], fields[8]
    if opcode is Opcode.MAX_POOL:
        return functional.max_pool2d(padded(x, pads, ceil, kernel, strides, -torch.inf), kernel, strides)
    sums = functional.avg_pool2d(
        padded(x, pads, ceil, kernel, strides, 0.0), kernel, strides, divisor_override=1
    )
    ones = functional.pad(torch.ones_like(x), (pads[1], pads[3], pads[0], pads[2]), value=float(fields[9]))
    counted = padded(ones, (0, 0, 0, 0), ceil, kernel, strides, 0.0)
    return sums / functional.avg_pool2d(counted, kernel, strides, divisor_override=1)


def interpret(region, arrays):
    """Run a region's program.

    Args:
        region: The node.
        arrays: Values of its inputs.
    """
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in region.attribute}
    assert attributes["schema"] == 1
    code, constants = iter(attributes["program"]), attributes["constants"]
    take = lambda count: [next(code) for _ in range(count)]  # noqa: E731
    tensors = [torch.from_numpy(array.copy()) for array in arrays]
    (activations,) = take(1)
    values, weights = [], tensors[activations:]
    for tensor in tensors[:activations]:
        layout, *shape = take(4)
        tensor = tensor.movedim(-1, 1) if layout in (SEQUENCE, LAST) else tensor
        assert tuple(tensor.shape[1:]) == tuple(shape[: min(layout, 4) - 1])
        assert layout != SEQUENCE or shape[2] == 1
        values.append(tensor.reshape(-1, *shape))
    for _ in range(*take(1)):
        opcode, count = take(2)
        fields = take(count)
        values.append(step(Opcode(opcode), fields, values, weights, constants))
    results = []
    for _ in range(*take(1)):
        value, layout = values[take(1)[0]], take(1)[0]
        last = value.movedim(1, -1)
        results.append({2: value.flatten(1), SEQUENCE: last.flatten(1, 2), 4: value, LAST: last}[layout])
    assert list(code) == []
    return [result.numpy() for result in results]


def step(opcode, fields, values, weights, constants):
    def weight(number):
        return None if number < 0 else weights[number]

    x = None if opcode is Opcode.CONCAT else values[fields[0]]
    match opcode:
        case Opcode.CONV:
            w, b, kh, kw, sh, sw, dh, dw, *pads, groups = fields[1:]
            assert (kh, kw) == tuple(weights[w].shape[2:])
            x = padded(x, pads, 0, (kh, kw), (sh, sw), 0.0)
            return functional.conv2d(x, weights[w], weight(b), (sh, sw), 0, (dh, dw), groups)
        case Opcode.CONV_TRANSPOSE:
            w, b, kh, kw, sh, sw, dh, dw, top, left, height, width, groups = fields[1:]
            assert (kh, kw) == tuple(weights[w].shape[2:])
            y = functional.conv_transpose2d(x, weights[w], None, (sh, sw), 0, 0, groups, (dh, dw))
            y = functional.pad(y, (0, sw + dw, 0, sh + dh))[..., top : top + height, left : left + width]
            return y if b < 0 else y + weights[b][:, None, None]
        case Opcode.MAX_POOL | Opcode.AVERAGE_POOL:
            return pool(opcode, x, fields[1:])
        case Opcode.GLOBAL_AVERAGE:
            return x.mean((2, 3), keepdim=True)
        case Opcode.ADD:
            return x + values[fields[1]]
        case Opcode.SUBTRACT:
            return x - values[fields[1]]
        case Opcode.MULTIPLY:
            gate = values[fields[1]]
            outer = x.shape[2:] == (1, 1) and gate.shape[1] == 1
            assert outer or gate.shape[1:] in (x.shape[1:], (x.shape[1], 1, 1), (1, *x.shape[2:]))
            return x * gate
        case Opcode.DIVIDE:
            assert values[fields[1]].shape[1:] in (x.shape[1:], (1, *x.shape[2:]))
            return x / values[fields[1]]
        case Opcode.PLANE_NORM:
            return torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        case Opcode.CHANNEL_MEAN:
            return x.mean(1, keepdim=True)
        case Opcode.LINEAR:
            w, b, transposed = fields[1:]
            matrix = weights[w] if transposed else weights[w].T
            return functional.linear(x.movedim(1, -1), matrix, weight(b)).movedim(-1, 1)
        case Opcode.LAYER_NORM:
            s, b, epsilon = fields[1:]
            y = x.movedim(1, -1)
            y = functional.layer_norm(y, y.shape[-1:], weights[s], weight(b), constants[epsilon])
            return y.movedim(-1, 1)
        case Opcode.ACTIVATION:
            kind, *indices = fields[1:]
            return ACTIVATIONS[kind](x, *(None if i < 0 else constants[i] for i in indices))
        case Opcode.SOFTMAX:
            return torch.softmax(x, 1)
        case Opcode.LOG_SOFTMAX:
            return torch.log_softmax(x, 1)
        case Opcode.CONCAT:
            count, *parts = fields
            assert count == len(parts)
            return torch.cat([values[part] for part in parts], 1)
        case Opcode.RESIZE:
            height, width, how = fields[1:]
            if how == Resizing.NEAREST:
                return functional.interpolate(x, (height, width))
            corners = how == Resizing.CORNERS
            return functional.interpolate(x, (height, width), mode="bilinear", align_corners=corners)
        case Opcode.FLATTEN:
            return x.flatten(1)[:, :, None, None]
        case Opcode.SELECT:
            count, *channels = fields[1:]
            assert count == len(channels)
            return x[:, channels]


def number_of_instructions(region):
    """Of a region that reads one tensor."""
    return region.attribute[1].ints[5]
