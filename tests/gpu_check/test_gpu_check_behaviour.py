"""The check's dry run on the CPU, and that wrong answers and wrong behaviour are found."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from models.gpu_check import answers, behaviour, concurrency, layers, memory, speed, strictness, ways
from models.gpu_check.context import Context
from models.gpu_check.preparing import prepare
from models.gpu_check.running import perform
from models.gpu_check.table import CHECKS
from nncompile import Predictor
from nncompile.bench.timing import Schedule

from .breaking import BY_NAME, patch, real, verdicts


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("answers", {"passed"}),
        ("refusals", {"passed", "not run"}),
        ("placement", {"passed"}),
        ("copies", {"not run"}),
        ("exchange", {"passed", "not run"}),
        ("overlap", {"not run"}),
        ("memory", {"passed"}),
        ("out-of-memory", {"not run"}),
        ("ragged", {"passed"}),
        ("queued", {"not run"}),
        ("concurrent", {"passed"}),
        ("layers", {"passed", "told"}),
        ("speed-small", {"told", "not run"}),
        ("speed-resnet18", {"not run"}),
    ],
)
def test_every_check_runs_on_the_cpu_as_far_as_it_makes_sense(here, monkeypatch, name, expected):
    monkeypatch.setattr(concurrency, "_CALLS", 5)
    monkeypatch.setattr(speed, "Schedule", partial(Schedule, rounds=2, warmup=0.001, pause=0.0))
    findings = list(perform(BY_NAME[name], here))
    assert set(verdicts(findings)) == expected, findings
    assert all(finding.said for finding in findings)


def test_ceilings_are_told(here, monkeypatch):
    monkeypatch.setattr(speed, "ORDERS", (64,))
    monkeypatch.setattr(speed, "SIZES", (1 << 12, 1 << 14, 1 << 16))
    findings = list(perform(BY_NAME["ceilings"], here))
    assert set(verdicts(findings)) == {"told"}
    assert [f.what for f in findings][-2:] == ["bandwidth of a copy", "shortest call"]


def test_the_table_fits_into_eight_minutes_and_every_place_exists():
    assert sum(check.seconds for check in CHECKS) <= 480
    assert len(BY_NAME) == len(CHECKS)
    for check in CHECKS:
        module, function = check.place.split(":")
        assert callable(getattr(import_module(f"models.gpu_check.{module}"), function))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_wrong_answers_are_found(here, monkeypatch, precision):
    patch(monkeypatch, lambda self, *args: real(self, *args) * 1.3)
    only = dataclasses.replace(here, precisions=(precision,))
    (finding,) = answers.answers(only)
    assert finding.verdict == "failed"
    assert "largest error" in finding.said
    assert "use_tf32" not in finding.said


def test_a_bias_inside_the_kernel_is_compared_where_it_can_be(here, monkeypatch):
    """The plan is a GPU's, so here it is taken for one that changes nothing."""
    there = dataclasses.replace(here, device="cuda:0", precisions=("float32", "float16"))
    assert [answers.fuses(there, "lenet5", p) for p in there.precisions] == [False, True]
    assert not answers.fuses(there, "net", "float16")  # which is not there
    assert not answers.fuses(here, "lenet5", "float16")
    monkeypatch.setattr(answers, "fuses", lambda *which: which[2] == "float16")
    monkeypatch.setattr(answers, "FUSED", {"spinning": False})
    patch(monkeypatch, lambda self, *args: real(self, *args) * (1 if self.plan.spinning else 1.3))
    found = list(answers.answers(here))
    assert [f.what for f in found] == ["lenet5, float32", "lenet5, float16", "lenet5, float16, fuse_bias"]
    assert verdicts(found) == ["passed", "passed", "failed"]


def test_tf32_is_judged_as_ten_bits_and_float32_is_not(here, monkeypatch):
    """The tf32 file is the float32 one; on the CPU neither rounds, so an error of 10 bits is put in."""
    both = dataclasses.replace(here, precisions=("float32", "tf32"))
    list(prepare(both))
    patch(monkeypatch, lambda self, *args: real(self, *args) * (1 + 2**-9))
    failed, passed = answers.answers(both)
    assert (failed.verdict, passed.verdict) == ("failed", "passed")
    assert "rounds to 10 bits although use_tf32 is off" in failed.said


def test_float64_is_computed_once_for_all_precisions(here, monkeypatch):
    given = []
    flat_call = answers.flat_call

    def counted(module, predictor):
        call = flat_call(module, predictor)
        return lambda inputs: given.extend(x for x in inputs if x.dtype == torch.float64) or call(inputs)

    monkeypatch.setattr(answers, "flat_call", counted)
    assert verdicts(answers.answers(here)) == ["passed"] * 2
    assert given
    assert not [(a, b) for a, b in itertools.combinations(given, 2) if torch.equal(a, b)]


def test_an_answer_is_kept_for_its_values_type_and_shape_alone():
    asked = []
    answer = answers.kept(lambda inputs: asked.append(inputs) or [inputs[0].numpy() * 2])
    x = torch.ones(2, 2)
    others = (x, torch.zeros(2, 2), x.reshape(4), x.double())
    for given in (*others, *others):
        np.testing.assert_array_equal(answer([given.clone()])[0], given.numpy() * 2)
    assert len(asked) == 4


def test_larger_networks_are_compared_last(here):
    given = dataclasses.replace(here, networks=("resnet18", "lenet5"), precisions=("float32",))
    assert [f.what for f in answers.answers(given)] == ["lenet5, float32", "resnet18, float32"]


def test_a_network_that_is_not_there_is_not_run(here):
    both = dataclasses.replace(here, networks=("lenet5", "net"))
    for check in (answers.answers, strictness.placement):
        assert verdicts(check(both)) == ["passed", "passed", "not run", "not run"]


def test_a_batch_that_answers_otherwise_is_found(here, monkeypatch):
    def wrong_at_17(self, x):
        return real(self, x) * (1.01 if len(x) == 17 and self.plan.micro_batch else 1)

    patch(monkeypatch, wrong_at_17)
    failed = [f for f in behaviour.ragged(here) if f.verdict == "failed"]
    kinds = [(f.what.split(", ")[0], f.what.split(", ")[-1]) for f in failed]
    assert kinds == [(name, kind) for name in ("lenet5", "a plain Conv") for kind in ("arrays", "tensors")]
    assert all("batch 17" in f.said for f in failed)


def test_a_gpu_is_asked_for_resnet18_channels_last_and_in_graphs(here, monkeypatch):
    there = dataclasses.replace(here, device="cuda", networks=("lenet5", "resnet18"))
    layouts = [{"channels_last": True}, {"channels_last": True, "cuda_graph": True}]
    graphs = {"cuda_graph": True}
    all_of_them = dataclasses.replace(there, precisions=("float32", "tf32", "float16", "bfloat16"))
    assert [(way.name, way.precision, way.plan) for way in ways.ways(all_of_them)] == [
        ("lenet5", "float32", graphs),
        ("a plain Conv", "float32", graphs),
        ("lenet5", "float32", {"micro_batch": 4}),
        ("lenet5", "float32", {"micro_batch": 4, "cuda_graph": True}),
        ("lenet5, tf32", "tf32", graphs),
        ("lenet5, bfloat16", "bfloat16", graphs),
        *(("resnet18, float16", "float16", plan) for plan in layouts),
    ]
    assert not [way for way in ways.ways(there) if way.precision in ("tf32", "bfloat16")]
    seen = []
    monkeypatch.setattr(answers, "_compared", lambda *args: seen.append(args[1:5]))
    monkeypatch.setattr(answers, "fuses", lambda *which: False)
    list(answers.answers(there))
    assert [run[1:] for run in seen] == [
        *((name, kind, None) for name in there.networks for kind in there.precisions),
        *(("resnet18", "float16", plan) for plan in layouts),
    ]
    assert not [way for way in ways.ways(here) if way.precision == "float16"]


def test_the_plain_convolution_stays_plain_and_is_right(here, monkeypatch):
    written, parse = [], ways.container.parse
    monkeypatch.setattr(ways.container, "parse", lambda raw, name: written.append(raw) or parse(raw, name))
    predictor = ways.plain_conv(here, {})
    nodes = onnx.load_from_string(written[0]).graph
    assert [node.op_type for node in nodes.node] == ["Conv", "Sigmoid", "Mul"] * 2
    weights = [torch.from_numpy(onnx.numpy_helper.to_array(w).copy()).double() for w in nodes.initializer]
    x = y = torch.from_numpy(ways._images(3, 0)).double()
    for weight in weights:
        y = torch.nn.functional.silu(torch.nn.functional.conv2d(y, weight, padding=1))
    got = predictor(x.float().numpy())
    np.testing.assert_allclose(got, y.numpy(), rtol=1e-4, atol=1e-5)


def test_an_output_that_a_later_call_overwrites_is_found(here, monkeypatch):
    buffers = {}

    def reuses(self, x):
        result = real(self, x)
        kept = buffers.setdefault((id(self), type(result), tuple(result.shape)), result)
        kept[...] = result
        return kept

    patch(monkeypatch, reuses)
    monkeypatch.setattr(ways, "_BATCHES", (3, 3))
    found = {f.what.split(", ")[-1]: f.verdict for f in behaviour.ragged(here)}
    assert found["arrays"] == found["tensors"] == "failed"


def test_answers_that_callers_mix_up_are_found(here, monkeypatch):
    last = []

    def mixes(self, x):
        last.append(real(self, x))
        same = [y for y in last[-20:] if y.shape == last[-1].shape and type(y) is type(last[-1])]
        return same[0]

    monkeypatch.setattr(concurrency, "_CALLS", 5)
    patch(monkeypatch, mixes)
    assert "failed" in verdicts(concurrency.concurrent(here))


def test_each_row_of_callers_is_found_to_be_wrong_by_itself(here, monkeypatch):
    """The row of tensors under CUDA graphs (here, in pieces) among them."""

    def wrong(self, x):
        asked = isinstance(x, torch.Tensor) and bool(self.plan.micro_batch)
        return real(self, x) * (1.01 if asked else 1)

    monkeypatch.setattr(concurrency, "_CALLS", 2)
    patch(monkeypatch, wrong)
    found = {f.what: f.verdict for f in concurrency.concurrent(here)}
    rows = [what for what, verdict in found.items() if verdict == "failed"]
    assert rows == ["lenet5, tensors, {'micro_batch': 2}"]
    assert list(found) == [
        "lenet5, arrays",
        "lenet5, tensors",
        "lenet5, arrays, {'micro_batch': 2}",
        "lenet5, tensors, {'micro_batch': 2}",
        "lenet5, streams, {'workers': 2, 'micro_batch': 2}",
    ]


def test_tensors_come_in_the_threads_that_captured_for_as_many_rows(here, monkeypatch):
    """Captured anew beside torch's calls of other threads, a graph could break."""
    seen = {"array": set(), "tensor": set()}

    def recorded(self, x):
        if self.plan.micro_batch and self.plan.workers == 1:
            seen["tensor" if isinstance(x, torch.Tensor) else "array"].add((threading.get_ident(), len(x)))
        return real(self, x)

    monkeypatch.setattr(concurrency, "_CALLS", 2)
    patch(monkeypatch, recorded)
    list(concurrency.concurrent(here))
    assert seen["tensor"] == seen["array"]
    assert len(seen["array"]) == 8


def test_streams_of_several_threads_that_mix_are_found(here, monkeypatch):
    stream = Predictor.predict_batches

    def late(self, *args, **options):
        answers = list(stream(self, *args, **options))
        return iter(answers[::-1])

    monkeypatch.setattr(concurrency, "_CALLS", 12)
    monkeypatch.setattr(Predictor, "predict_batches", late)
    failed = [f.what for f in concurrency.concurrent(here) if f.verdict == "failed"]
    assert failed == ["lenet5, streams, {'workers': 2, 'micro_batch': 2}"]


@pytest.mark.parametrize(("waits", "stale"), [(False, False), (True, False), (False, True)])
def test_a_call_that_waits_and_one_that_takes_an_input_too_early_are_found(here, monkeypatch, waits, stale):
    """On a clock that goes on by the call where that waits, and by waiting for the GPU."""
    now, kept = [0.0], {}

    def predict(self, x):
        now[0] += 0.05 if waits else 0.001
        answer = real(self, x)
        return kept.setdefault(x.data_ptr(), answer) if stale else answer

    patch(monkeypatch, predict)
    monkeypatch.setattr(concurrency, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(concurrency, "wait", lambda device: now.__setitem__(0, now[0] + 0.04))
    current, slept = [], []

    @contextmanager
    def on(device):
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: slept.append(list(current)))
    found = verdicts(concurrency._returns_early(here, ways.small(here)))
    assert found == ["failed" if waits else "passed", "failed" if stale else "passed"]
    assert slept == [[torch.device(here.device)]]  # which may not be the current one


def test_a_gpu_is_asked_under_every_plan_that_could_differ(here, monkeypatch):
    precisions = ("float32", "tf32", "float16", "bfloat16")
    there = dataclasses.replace(
        here, device="cuda", networks=("lenet5", "net", "resnet18"), precisions=precisions
    )
    graphs, layouts = {"cuda_graph": True}, [("resnet18, float16", plan) for plan in ways.LARGE_PLANS]
    reduced = [("lenet5, tf32", graphs), ("lenet5, bfloat16", graphs)]
    asked = []

    def note(_, way, *__):
        asked.append((way.name, way.plan))
        return ()

    monkeypatch.setattr(concurrency, "_returns_early", note)
    list(concurrency.queued(there))
    assert asked == [(name, plan) for name in ("lenet5", "net") for plan in ({}, graphs)] + layouts
    asked.clear()
    monkeypatch.setattr(memory, "_stays", note)
    monkeypatch.setattr(memory, "GpuMemory", lambda number: SimpleNamespace(used=int))
    list(memory.flat(there))
    assert asked == [("lenet5", {}), ("net", {}), ("lenet5", graphs), *layouts]
    seen = []
    monkeypatch.setattr(strictness, "copied", lambda *_: None)
    monkeypatch.setattr(Context, "tensor", lambda self, array: array)
    monkeypatch.setattr(strictness, "_copies", lambda _, what, *__: seen.append(what) or ())
    list(strictness.copies(there))
    plain = [f"{name}, {precision}" for name in there.networks for precision in precisions]
    others = [("lenet5", graphs), *reduced, *layouts]
    assert sorted(seen) == sorted(plain + [f"{name}, {plan}" for name, plan in others])


def test_a_graph_that_could_not_be_captured_is_found(here, monkeypatch):
    def warns(self, x):
        logging.getLogger("nncompile").warning("Batches of 4 run without a CUDA graph: why")
        return real(self, x)

    patch(monkeypatch, warns)
    monkeypatch.setattr(ways, "_BATCHES", (3,))
    monkeypatch.setattr(concurrency, "_CALLS", 1)
    for check in (behaviour.ragged, concurrency.concurrent):
        failed = [f for f in check(here) if f.verdict == "failed"]
        assert any("without a CUDA graph" in f.said for f in failed)


@pytest.mark.parametrize(("returned", "verdict"), [(0.001, "passed"), (0.04, "failed")])
@pytest.mark.parametrize("plan", [{}, {"cuda_graph": True}])
def test_a_call_that_waits_for_the_gpu_is_found(plan, returned, verdict):
    found = concurrency._judged(f"lenet5, {plan}", returned, 0.05, "said")
    assert found.verdict == verdict
    assert ("waits after a replay" in found.said) == (verdict == "failed" and bool(plan))


def test_a_way_that_computes_something_else_is_found(here, monkeypatch):
    monkeypatch.setattr(layers, "_LINEAR", ((4, 3),))
    monkeypatch.setattr(layers, "_PLANES", ())
    assert verdicts(layers.layers(here)) == ["passed"] * 2 + ["told"]
    monkeypatch.setattr(layers, "_loaded", _doubling_every_other())
    assert verdicts(layers.layers(here)) == ["passed", "failed", "told"]


def _doubling_every_other():
    load, turns = layers._loaded, itertools.cycle((1, 2))

    def loaded(context, model):
        predictor, factor = load(context, model), next(turns)
        monkey = type("Off", (), {"__call__": lambda self, x: factor * predictor(x)})()
        monkey.flatten_result = predictor.flatten_result
        return monkey

    return loaded
