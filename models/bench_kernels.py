"""What the native kernels are worth and cost: time, memory and error of `predict` with and without them.

Weights are random, of one seed: they change no time. From the repository root, on an idle machine, in about
fifteen minutes:

    python -m models.bench_kernels -o docs/kernel-figures.md
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import onnx
import onnx_ir as ir
import typer

from models import _benchmark, kernel_memory, winograd_error
from models._variants import YARDSTICK, Variant, captured_and_exported, compiled, timed
from models.kernel_memory import Memory
from models.winograd_error import LAYERS, Error
from models.zoo import LARGER, ZOO, Entry
from nncompile.bench.disturbance import load_average
from nncompile.bench.figures import NOTHING, estimate, markdown_table, microseconds
from nncompile.bench.statistics import latency, paired_ratio, spread
from nncompile.bench.timing import Schedule
from nncompile.costs import graph_cost
from nncompile_runtime.bootstrap import Estimate
from nncompile_runtime.kernels import installed_library

T = TypeVar("T")

# How each variant differs from the default plan.
KERNELS = "kernels"
PLANS: Mapping[str, Mapping[str, bool]] = {KERNELS: {}, "exact": {"exact": True}, "plain": {"native": False}}
SMALL, LARGE = (1, 8, 64, 256), (1, 16)
NETWORKS: Mapping[str, tuple[Entry, tuple[int, ...]]] = {
    **{name: (ZOO[name], SMALL) for name in ("lenet5", "lenet3", "model", "net", "mlp")},
    **{name: (LARGER[name], LARGE) for name in ("resnet18", "mobilenetv2")},
}


@dataclass(frozen=True)
class Result:
    """One network at one batch.

    Attributes:
        network: Its name.
        batch: Samples in one call.
        medians: The median time of a call in microseconds, by engine.
        ratios: How many times as fast as plain ONNX Runtime, by variant.
        apart: The median call of the slowest session over that of the fastest, by engine.
        gflops: Multiplications and additions of the network as it is defined, in 1e9 a second, with kernels;
            Winograd's algorithm does fewer.
        rejected: Why an engine was not timed, by its name.
    """

    network: str
    batch: int
    medians: Mapping[str, float]
    ratios: Mapping[str, Estimate]
    apart: Mapping[str, float]
    gflops: float
    rejected: Mapping[str, str]


def bench(name: str, batches: Sequence[int], schedule: Schedule) -> list[Result]:
    """Time one network at each batch with each plan, interleaved with plain ONNX Runtime."""
    entry, _ = NETWORKS[name]
    captured, exported = captured_and_exported(entry.build, entry.input_shape)
    data, _ = compiled(captured)
    variants = {key: partial(Variant, key, data, captured.signature, plan) for key, plan in PLANS.items()}
    flops = graph_cost(ir.from_proto(onnx.load_from_string(exported))).totals.flops
    results = []
    for batch in batches:
        samples = timed(variants, exported, captured.signature, batch, schedule)
        taken, wrong = samples.taken[batch], {found.engine: found.reason for found in samples.rejected}
        medians = {key: float(latency(rounds).p50) for key, rounds in taken.items()}
        ratio = partial(paired_ratio, taken.get(YARDSTICK, ()), sessions=schedule.sessions)
        ratios = {key: ratio(taken[key]) for key in taken if key != YARDSTICK and YARDSTICK in taken}
        gflops = flops * batch / medians[KERNELS] / 1e3 if KERNELS in medians else 0.0
        apart = {key: spread(rounds, schedule.sessions).apart for key, rounds in taken.items()}
        results.append(Result(name, batch, medians, ratios, apart, gflops, wrong))
    return results


def memory(name: str, batch: int) -> list[Memory]:
    """What a network takes with the kernels and without; empty where the system does not tell."""
    entry, _ = NETWORKS[name]
    captured, _ = captured_and_exported(entry.build, entry.input_shape)
    data, _ = compiled(captured)
    found = (kernel_memory.measure(data, batch, native=native) for native in (True, False))
    return [one for one in found if one is not None]


def peak_gflops(seconds: float = 1.0) -> float:
    """The rate of a large matrix product of numpy's BLAS: what this machine's processors can do together."""
    size, best = 1536, float("inf")
    a, b = (np.full((size, size), 0.5, np.float32) for _ in range(2))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        a @ b
        best = min(best, time.perf_counter_ns() - start)
    return 2 * size**3 / best


def page(
    results: Sequence[Result],
    memories: Mapping[tuple[str, int], Sequence[Memory]],
    errors: Sequence[Error],
    peak: float,
    schedule: Schedule,
    load: float = 0.0,
) -> str:
    """The tables, and how they were measured; `load` is the load average of before."""
    sections = [
        "# The native kernels, measured",
        *_benchmark.warnings(load),
        "Written by `python -m models.bench_kernels`. Times in microseconds of one call, ratios to plain "
        "ONNX Runtime (default options, the exporter's own graph). *kernels* is `predict` with the default "
        "plan, *exact* the same without Winograd's algorithm, *plain* without the kernels. GFLOP/s counts "
        "the operations of the network as it is defined, of which Winograd's algorithm does a part; *of "
        f"peak* is their share of {peak:.0f} GFLOP/s, the rate of a matrix product of 1536 x 1536 in the "
        f"same run (numpy's BLAS). *Sessions apart*: the slowest session's median over the fastest's, noise "
        f"included, of {YARDSTICK} and of {KERNELS}; docs/benchmarks.md says why.",
        _speeds(results, peak),
    ]
    if gaps := [
        f"- {one.network}, batch {one.batch}, {key}: it {why}"
        for one in results
        for key, why in one.rejected.items()
    ]:
        sections += ["## Not measured", "\n".join(gaps)]
    if memories:
        sections += [
            "## Memory",
            "Resident memory in MiB of a process that loads the network and calls it once, less what its "
            "imports take; *plain* without the kernels.",
            kernel_memory.table(memories),
        ]
    sections += [
        "## Errors",
        f"Largest error of a convolution of {', '.join(str(n) for n, _ in LAYERS)} channels against float64, "
        "as a share of max |y| / of max (|x| * |w|), the largest sum of absolute values.",
        winograd_error.table(errors),
        "## How",
        _benchmark.environment(),
        f"Kernels: {installed_library().note}.",
        _benchmark.method(schedule),
    ]
    return "\n\n".join(sections) + "\n"


def _speeds(results: Sequence[Result], peak: float) -> str:
    times, ratios = (YARDSTICK, KERNELS), ("exact", "plain")
    columns = ["network", "batch", *times, "times as fast [95 %]", *ratios, "GFLOP/s", "of peak"]
    columns.append("sessions apart")
    rows = [
        [
            one.network,
            str(one.batch),
            *(_shown(one.medians, key, microseconds) for key in times),
            _shown(one.ratios, KERNELS, estimate),
            *(_shown(one.ratios, key, lambda ratio: f"{ratio.value:.2f}") for key in ratios),
            f"{one.gflops:.0f}",
            f"{one.gflops / peak:.0%}",
            " / ".join(_shown(one.apart, key, lambda apart: f"{apart:.2f}") for key in times),
        ]
        for one in results
    ]
    return markdown_table(columns, rows, [False] + [True] * (len(columns) - 1))


def _shown(found: Mapping[str, T], key: str, text: Callable[[T], str]) -> str:
    """A number as text; a dash where there is none."""
    return text(found[key]) if key in found else NOTHING


EVERY = ",".join(NETWORKS)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    networks: _benchmark.Networks = EVERY,
    seconds: _benchmark.Seconds = 1.0,
    rounds: _benchmark.Rounds = 10,
    output: _benchmark.Output = None,
) -> None:
    """Measure the native kernels and write a page of ratios to plain ONNX Runtime."""
    names = _benchmark.chosen(networks, NETWORKS)
    schedule = _benchmark.schedule_of(rounds, seconds)
    _benchmark.refuse_unwritable(output)
    load = load_average()
    if installed_library().path is None:
        _benchmark.fail(installed_library().note, 1)
    results: list[Result] = []
    for number, name in enumerate(names, 1):
        _benchmark.say(f"{number}/{len(names)} {name} ...")
        results += bench(name, NETWORKS[name][1], schedule)
    if not results:
        _benchmark.fail("nothing was measured", 1)
    _benchmark.say("memory ...")
    memories = {(name, max(LARGE)): memory(name, max(LARGE)) for name in names if name in LARGER}
    _benchmark.say("errors ...")
    errors = winograd_error.measure()
    known = {key: both for key, both in memories.items() if both}
    _benchmark.write(page(results, known, errors, peak_gflops(), schedule, load), output)


if __name__ == "__main__":
    app()
