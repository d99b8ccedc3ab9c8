"""What a session may be told about the choices of the kernels, and what it says of them."""

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from random_regions import examples, graphs, layers
from regions import Region, assert_close, kernels, run, session
from same_bits import assert_same_bits

from nncompile.passes.region_program import Kind

WIDE, NARROW = "16x16x3x3@10x10", "8x16x3x3@1x1"  # by cost with Winograd's algorithm, and without
NUMBERS = itertools.count(10**6)  # of sessions, apart from those that the runtime counts


def chain():
    """Two convolutions that may run by either algorithm, and one that may not."""
    random = np.random.default_rng(0)
    region = Region((6, 12, 12))
    y = region.activation(region.conv(0, random.standard_normal((16, 6, 1, 1)) / 3), Kind.RELU)
    y = region.conv(y, random.standard_normal((16, 16, 3, 3)) / 12)
    y = region.max_pool(y, (3, 3), (3, 3))
    return region.output(region.conv(y, random.standard_normal((8, 16, 3, 3)) / 12))


def small():
    """A network whose samples go into lanes."""
    random = np.random.default_rng(0)
    region = Region((1, 12, 12))
    y = region.conv(0, random.standard_normal((6, 1, 3, 3)) / 3)
    y = region.max_pool(region.activation(y, Kind.RELU), (2, 2), (2, 2))
    return region.output(region.conv(y, random.standard_normal((10, 6, 3, 3)) / 7))


def answer(region, build, exact=False, **options):
    return run(session(region.model(), build, exact=exact, options=options), region.random_inputs(3))[0]


def reported(region, build, exact=False, **options):
    number = next(NUMBERS)
    session(region.model(), build, exact=exact, options={"session": str(number), **options})
    told = kernels.report(number, build)
    assert kernels.report(number, build) == []  # it was told, and is forgotten
    return told


def winograd(region, build, **options):
    """Which layers run by Winograd's algorithm, of those that could."""
    lines = [line.split() for line in reported(region, build, **options)]
    return {line[0]: line[1] == "1" for line in lines if line[0] != "lanes"}


@pytest.mark.parametrize(
    ("choice", "wide", "narrow"),
    [
        ("auto", True, False),
        ("always", True, True),
        ("never", False, False),
        (WIDE, True, False),
        (NARROW, False, True),
        (f"{NARROW},{WIDE}", True, True),
        ("16x16x3x3@10x11,16x6x1x1@12x12", False, False),
    ],
)
def test_winograd_runs_the_layers_that_are_told(build, choice, wide, narrow):
    assert winograd(chain(), build, winograd=choice) == {WIDE: wide, NARROW: narrow}


def test_what_is_reported_is_what_runs(build):
    """Every choice has its own bits, and each way to say it the same."""
    region = chain()
    said = {"auto": WIDE, "always": f"{WIDE},{NARROW}", "never": "9x9x3x3@9x9"}
    answers = [answer(region, build, winograd=choice) for choice in (*said, NARROW)]
    for one, other in itertools.combinations(answers, 2):
        assert (one != other).any()
    for got, layers_ in zip(answers, said.values(), strict=False):
        np.testing.assert_array_equal(got, answer(region, build, winograd=layers_))
    np.testing.assert_array_equal(answers[0], answer(region, build))


@pytest.mark.parametrize("choice", ["auto", "always", NARROW])
def test_exact_goes_before_winograd(build, choice):
    region = chain()
    assert set(winograd(region, build, exact=True, winograd=choice).values()) == {False}
    want = answer(region, build, winograd="never")
    np.testing.assert_array_equal(answer(region, build, exact=True, winograd=choice), want)


def test_the_costs_are_reported(build):
    lines = [line.split() for line in reported(chain(), build)]
    cost = {line[0]: float(line[2]) for line in lines if line[0] != "lanes"}
    assert cost[WIDE] < 1 < cost[NARROW]


@pytest.mark.parametrize(("options", "form"), [({}, "rows"), ({"lanes": "off"}, "tiles")])
def test_the_form_is_reported(build, options, form):
    """Samples in lanes have it along the rows alone; the portable build has none."""
    lines = [line.split() for line in reported(small(), build, winograd="always", **options)]
    told = {line[0]: line[3] for line in lines if line[0] != "lanes"}
    form = "tiles" if build == "portable" else form
    assert told == {"6x1x3x3@10x10": form, "10x6x3x3@3x3": form}
    defined = [line.split() for line in reported(small(), build, winograd="never", **options)]
    assert {len(line) for line in defined if line[0] != "lanes"} == {3}


@examples(25)
@given(region=layers())
def test_winograd_wherever_it_applies(build, region):
    assert_always(region, build)


@examples(25)
@given(region=graphs())
def test_winograd_wherever_it_applies_in_a_graph(build, region):
    assert_always(region, build)


def assert_always(region, build):
    for threads in (1, 3):
        running = session(region.model(), build, threads=threads, options={"winograd": "always"})
        for batch in (1, 2, 17):
            inputs = region.random_inputs(batch)
            assert_close(run(running, inputs), region.eager(*inputs), exact=False)


def test_a_session_that_asks_for_no_report_leaves_none(build):
    session(small().model(), build)
    assert kernels.report(0, build) == []


def test_samples_in_lanes_can_be_left_out(build):
    lanes = [line for line in reported(small(), build) if line.startswith("lanes")]
    assert lanes == {"portable": [], "avx2": ["lanes 8"], "avx512": ["lanes 16", "lanes 8"]}[build]
    assert [line for line in reported(small(), build, lanes="off") if line.startswith("lanes")] == []


def test_exact_lanes_change_no_bit(build):
    region = small()
    inputs = region.random_inputs(23)
    on, off = (
        run(session(region.model(), build, exact=True, options={"lanes": lanes}), inputs)[0]
        for lanes in ("auto", "off")
    )
    np.testing.assert_array_equal(on.view(np.int32), off.view(np.int32))


@pytest.mark.parametrize("split", ["0", "1000000000"])
def test_a_split_changes_no_bit(build, split):
    region = chain()
    inputs = region.random_inputs(1)
    want = run(session(region.model(), build, threads=1), inputs)[0]
    running = session(region.model(), build, threads=3, options={"split": split})
    np.testing.assert_array_equal(run(running, inputs)[0].view(np.int32), want.view(np.int32))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_layers_are_split_from_the_cost_that_is_told(build):
    """A worker that is handed nothing does not wake."""
    assert worker_wakes(build, 10_000, split="0")
    assert not worker_wakes(build, 50, split="1000000000")


def worker_wakes(build, calls, **options):
    """Whether the worker of a session of two threads wakes within so many calls of one sample."""
    region = chain()
    before = set(os.listdir("/proc/self/task"))
    running = session(region.model(), build, threads=2, options=options)
    (worker,) = set(os.listdir("/proc/self/task")) - before
    while True:
        asleep, start = state(worker)
        if asleep and start:
            break
        time.sleep(0.001)
    inputs = region.random_inputs(1)
    for _ in range(calls):
        run(running, inputs)
        if state(worker)[1] != start:
            return True
    return False


def state(thread):
    """Whether it sleeps, and how often it went to sleep by itself."""
    text = Path(f"/proc/self/task/{thread}/status").read_text()
    return "\nState:\tS" in text, int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])


@examples(10)
@given(region=graphs())
def test_the_same_bits_where_every_layer_runs_by_winograd(build, region):
    assert_same_bits(region, build, exact=False, options={"winograd": "always", "lanes": "off"})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            ("winograd", value)
            for value in ("", "Auto", "auto,never", "always ", " auto", "1", "on", WIDE + ",")
        ),
        *(("winograd", value) for value in ("," + WIDE, f"{WIDE},,{WIDE}", f"{WIDE},never", f"{WIDE} ")),
        *(
            ("winograd", value)
            for value in ("16x16x3@10x10", "16x16x3x3", "16x16x3x3x3@12x12", "16x16x3x3@12")
        ),
        *(("winograd", value) for value in ("0x16x3x3@12x12", "016x16x3x3@12x12", "-1x16x3x3@12x12")),
        *(("winograd", value) for value in ("9999999999x16x3x3@12x12", WIDE + "x1", WIDE + ";" + WIDE)),
        *(("lanes", value) for value in ("", "on", "Auto", "0", "8", "off ")),
        *(("split", value) for value in ("", "x", "-1", "1.5", "1000000001", "1e6", "9" * 40)),
        *(("session", value) for value in ("", "x", "-1", "2147483648")),
        *(("exact", value) for value in ("2", "true")),
    ],
)
def test_a_value_that_is_none(build, option, value):
    with pytest.raises(Exception, match=f"nncompile.{option} is '{value}', not "):
        session(chain().model(), build, options={option: value})


def test_a_list_as_long_as_a_plan_may_give(build):
    """And longer than the buffer that an option of one number needs."""
    longest = ",".join([WIDE] * 60)
    assert winograd(chain(), build, winograd=longest) == {WIDE: True, NARROW: False}
