"""Modules from functions, and row-wise graphs in ONNX's text format."""

from torch import nn

IN, OUT = {"x": "float32 n 4"}, {"y": "float32 n 4"}


class Of(nn.Module):
    """A module from a function of its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def graph(expression):
    return f"g (float[n, 4] x) => (float[n, 4] y) {{ {expression} }}"
