"""Benchmarks to make pages of, without measuring anything."""

import onnx
import onnx_ir as ir

from nncompile.bench.ceilings import Ceilings, Rung
from nncompile.bench.correctness import Rejected
from nncompile.bench.drawing import draw
from nncompile.bench.overhead import Overhead
from nncompile.bench.results import Absent, BenchReport, EngineInfo, Method, Row
from nncompile.bench.roofline import Limit, Roofline
from nncompile.bench.statistics import Latency, Spread
from nncompile.bench.timing import Schedule
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.machine import Machine

HOSTILE = """<script>document.title = 'taken'</script>"'><img src=x onerror=alert(1)>${1+1}{{ 7 * 7 }}"""
ENGINES = ("nncompile", "onnxruntime", "eager", "openvino", "ncnn", "torch-compile", "torch-compile-max")
BATCHES = (1, 8, 64, 256)


def report(name="LeNet5", batches=BATCHES, engines=ENGINES):
    """A report with numbers of every width; `name` stands wherever a file could have put one."""
    ceilings = Ceilings(2, 2e11, "ONNX Runtime 1.31.1, 512 x 512", (Rung(2**17, 1.9e11), Rung(2**28, 3e10)))
    limits = tuple(Limit(b, 852_370 * b, 250_000 + 4136 * b, True, 4e-6 * b, "compute") for b in batches)
    roofline = Roofline(ceilings, limits)
    rows = []
    for batch in batches:
        for number, engine in enumerate(engines):
            p50 = 9.3 * batch * (number + 1) ** 1.7
            speed = Estimate(2 / (number + 1), 1.9 / (number + 1), 2.1 / (number + 1))
            times = Latency(p50, 1.1 * p50, 1.3 * p50, 3 * p50)
            apart, share = Spread(p50, 0.9 * p50, 1.2 * p50), roofline.share(batch, p50)
            rows.append(Row(engine, batch, 100, times, 1e6 * batch / p50, speed, apart, share, (p50,) * 2))
    return BenchReport(
        model=f"{name}.onnx",
        network=name,
        inputs=(f"{name}: float32[batch, 1, 32, 32]",),
        machine=Machine("AMD EPYC 7B13", ("avx2", "fma"), 2, "1.31.1"),
        versions={"python": "3.11.7", "onnxruntime": "1.31.1", "torch": "2.13.0+cpu"},
        method=Method(Schedule(), 0, "eager", "onnxruntime"),
        batches=batches,
        engines=tuple(EngineInfo(engine, f"{name} {engine}", 2) for engine in engines),
        rows=tuple(rows),
        rejected=(Rejected("ncnn", batches[0], f"disagrees with eager: {name}"),),
        absent=(Absent("tvm", f"{name} cannot be imported."),),
        overhead=Overhead(1, 500, 11.0, 9.5, Estimate(1.5, 1.25, 1.75)),
        roofline=roofline,
    )


def drawing(nodes, name="a node"):
    """A graph of residual blocks, each node with a name of a file's making."""
    reads = (f"Relu(v{n - 1})" if n % 5 else f"Add(v{n - 1}, v{n - 5})" for n in range(1, nodes))
    body = "v0 = Conv(x, w) " + "".join(f"v{number} = {read} " for number, read in enumerate(reads, 1))
    body += f"y = Identity(v{nodes - 1})"
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> '
        f"g (float[n, 3, 8, 8] x, float[16, 3, 3, 3] w) => (float[n, 16, 6, 6] y) {{ {body} }}"
    )
    for number, node in enumerate(model.graph.node):
        node.name = f"{name} {number}"
    return draw(ir.from_proto(model), 1)
