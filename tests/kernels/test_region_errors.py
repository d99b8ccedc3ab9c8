"""What the operator cannot run it refuses with a sentence: never a crash, never a guess."""

import subprocess
import sys

import numpy as np
import pytest
from eager import interpret
from hypothesis import given
from hypothesis import strategies as st
from nncompile_kernels import library_path
from random_regions import examples, graphs
from regions import Region, assert_close, run, session

from nncompile.passes.region_program import Kind, Resizing

# From 2^24 + 1 on no field is in its range; below 61 every program is small enough to run.
NUMBERS = st.one_of(
    st.integers(-3, 60),
    st.sampled_from((2**24 + 1, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63))),
)


def network():
    """A chain with every kind of field, and its weights."""
    random = np.random.default_rng(0)
    region = Region((3, 9, 9))
    y = region.conv(0, random.standard_normal((8, 3, 3, 3)), np.ones(8), pads=(1, 1, 1, 1))
    y = region.activation(y, Kind.CLIP, 0, 6)
    y = region.add(y, region.conv(y, random.standard_normal((8, 1, 3, 3)), pads=(1, 1, 1, 1), groups=8))
    y = region.concat(region.max_pool(y, (2, 2), (2, 2)), region.average_pool(y, (2, 2), (2, 2)))
    y = region.multiply(y, region.global_average(y))
    y = region.linear(region.flatten(y), random.standard_normal((5, 256)))
    return region.output(region.softmax(y))


def refused(build, model, why, options=None):
    with pytest.raises(Exception, match=why):
        session(model, build, options=options)


def test_the_network_itself_runs(build):
    region = network()
    inputs = region.random_inputs(3)
    assert_close(run(session(region.model(), build, exact=True), inputs), region.eager(*inputs))


@pytest.mark.parametrize("schema", [0, 2, 99, -1])
def test_another_schema(build, schema):
    refused(build, network().model(schema=schema), f"schema {schema}, and this library knows 1 only")


def test_a_program_cut_short_anywhere(build):
    region = network()
    for length in range(1, len(region.program)):
        refused(build, region.model(program=region.program[:length]), "FusedRegion: the program ends before")


def test_an_empty_program(build):
    refused(build, network().model(program=[]), "FusedRegion: the program has no activations|program")


def test_a_program_that_goes_on(build):
    region = network()
    refused(
        build, region.model(program=[*region.program, 0]), "FusedRegion: the program goes on after its end"
    )


@pytest.mark.parametrize("opcode", [0, 21, -1, 2**40])
def test_an_unknown_opcode(build, opcode):
    region = network()
    region.instructions[1] = (opcode, region.instructions[1][1])
    refused(build, region.model(), f"FusedRegion: an opcode is {opcode}")


@pytest.mark.parametrize(
    ("instruction", "field", "value", "why"),
    [
        (0, 0, 1, "a value is 1"),  # its own result
        (0, 0, -1, "a value is -1"),
        (0, 1, 4, "a weight is 4"),
        (0, 1, -1, "a weight is -1"),
        (0, 1, 2, "weight does not fit"),
        (0, 2, 0, "bias does not fit"),
        (0, 3, 2, "weight does not fit"),
        (0, 5, 0, "a dimension is 0"),
        (0, 7, 0, "a dimension is 0"),
        (0, 7, 2**24, "a kernel is dilated too far"),
        (0, 8, 40, "kernel is larger than its input"),
        (0, 9, -1, "a pad is -1"),
        (0, 9, 2**24 + 1, "a pad is 16777217"),
        (0, 13, 2, "weight does not fit"),
        (1, 1, 11, "an activation is 11"),
        (1, 2, -1, "a constant is -1"),
        (1, 3, 3, "a constant is 3"),
        (2, 13, 4, "weight does not fit"),
        (3, 1, 0, "Add of different shapes"),
        (4, 1, 10, "kernel is larger than its input"),
        (4, 5, 2, "pads by its kernel or more"),
        (4, 9, 2, "ceil is 2"),
        (5, 10, -1, "include_pad is -1"),
        (6, 2, 4, "Concat of different planes"),
        (8, 1, 3, "Mul of different shapes"),
        (10, 0, 9, "weight does not fit"),
        (10, 3, 0, "weight does not fit"),
        (11, 0, 9, "softmax over a plane"),
    ],
)
def test_a_field_that_does_not_fit(build, instruction, field, value, why):
    region = network()
    opcode, fields = region.instructions[instruction]
    region.instructions[instruction] = (opcode, (*fields[:field], value, *fields[field + 1 :]))
    refused(build, region.model(), f"FusedRegion: .*{why}")


@pytest.mark.parametrize("combine", [Region.add, Region.subtract])
def test_terms_of_different_shapes(build, combine):
    region = Region((2, 3, 3), (2, 3, 3), (2, 3, 1))
    region.output(combine(region, 0, 1))
    opcode, fields = region.instructions[0]
    region.instructions[0] = (opcode, (fields[0], 2))
    refused(build, region.model(), "FusedRegion: (Add|Sub) of different shapes")


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 3, 1), (2, 3, 1), (1, 1, 1)], ids=str)
def test_a_divisor_that_does_not_fit(build, shape):
    region = Region((2, 3, 3), (1, 3, 3), shape)
    region.output(region.divide(0, 1))
    region.instructions[0] = (region.instructions[0][0], (0, 2))
    refused(build, region.model(), "FusedRegion: Div of different shapes")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ((0, 0, 4, 0), "a dimension is 0"),
        ((0, 4, 2**24 + 1, 0), "a dimension is 16777217"),
        ((0, 2**15, 2**15, 1), "a value has too many elements"),
        ((0, 4, 4, 3), "a way to resize is 3"),
        ((0, 4, 4, -1), "a way to resize is -1"),
        ((0, 4, 4), "the program ends before|a way to resize|another number of fields"),
    ],
)
def test_a_plane_that_cannot_be_made(build, fields, why):
    region = Region((2, 3, 3))
    region.output(region.resize(0, (4, 4), Resizing.NEAREST))
    region.instructions[0] = (region.instructions[0][0], fields)
    refused(build, region.model(), f"FusedRegion: .*({why})")


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (1, 2, "a weight is 2"),
        (1, 1, "weight does not fit"),
        (2, 0, "bias does not fit"),
        (3, 4, "weight does not fit"),
        (4, 2, "weight does not fit"),
        (5, 0, "a dimension is 0"),
        (7, 2**24, "a kernel is dilated too far"),
        (9, -1, "a pad is -1"),
        (11, 0, "a dimension is 0"),
        (11, 2**24, "a value has too many elements"),
        (13, 4, "weight does not fit"),
        (13, 0, "a dimension is 0"),
    ],
)
def test_a_transposed_convolution_that_does_not_fit(build, field, value, why):
    region = Region((6, 9, 9))
    region.output(region.conv_transpose(0, np.ones((6, 10, 3, 3)), np.ones(20), (2, 2), (1, 1), groups=2))
    inputs = region.random_inputs(2)
    assert_close(run(session(region.model(), build), inputs), region.eager(*inputs))
    opcode, fields = region.instructions[0]
    region.instructions[0] = (opcode, (*fields[:field], value, *fields[field + 1 :]))
    refused(build, region.model(), f"FusedRegion: .*{why}")


def test_products_of_a_row_that_cannot_be_counted(build):
    region = Region((1, 1, 2**12))
    plane = (1, 2**12)
    region.output(region.conv_transpose(0, np.ones((1, 2, 1, 2**18)), None, (1, 1), (0, 0), plane))
    refused(build, region.model(), "FusedRegion: a transposed convolution's .* has too many elements")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ((0, -1, 1, 1), "a weight is -1"),
        ((0, 3, 1, 1), "a weight is 3"),
        ((0, 2, 1, 1), "a scale does not fit its channels"),
        ((0, 0, 2, 1), "a bias does not fit its layer"),
        ((0, 0, 3, 1), "a bias is 3"),
        ((0, 0, 1, -1), "a constant is -1"),
        ((0, 0, 1, 2), "a constant is 2"),
        ((0, 0, 1), "the program ends before|a constant is|another number of fields"),
        ((1, 0, 1, 1), "a value is 1"),
    ],
)
def test_a_norm_whose_parts_do_not_fit(build, fields, why):
    region = Region((4, 3, 3))
    y = region.layer_norm(0, np.ones(4), np.ones(4))
    region.output(region.linear(y, np.ones((4, 2)), transposed=False))
    region.instructions[0] = (region.instructions[0][0], fields)
    refused(build, region.model(), f"FusedRegion: .*({why})")


@pytest.mark.parametrize("shape", [(3, 4), (4, 3, 1), (4,), (2, 4)])
def test_a_matrix_that_does_not_fit_its_pixels(build, shape):
    region = Region((4, 3, 3))
    region.output(region.linear(0, np.ones((4, 5)), transposed=False))
    region.weights[0] = np.ones(shape, np.float32)
    region.instructions[0] = (region.instructions[0][0], (0, 0, -1, 0))
    refused(build, region.model(), "FusedRegion: a linear layer's weight does not fit its input")


@pytest.mark.parametrize("layout", [6, 1, 0, -1])
def test_a_layout_that_is_none(build, layout):
    region = network()
    region.layouts = [layout]
    refused(build, region.model(), f"FusedRegion: a rank is {layout}")


@pytest.mark.parametrize(("shape", "layout"), [((2, 3, 4), 3), ((2, 3, 4), 2), ((2, 3, 1), 2)])
def test_a_plane_that_is_no_sequence(build, shape, layout):
    """Nor a column."""
    region = Region(shape)
    region.output(region.activation(0, Kind.RELU), layout)
    refused(build, region.model(), "FusedRegion: an output's rank")
    region.outputs[0] = (1, 4)
    region.layouts = [layout]
    refused(build, region.model(declared=[None]), f"FusedRegion: a plane of rank {layout}")


def test_channels_that_are_elsewhere(build):
    """The program says last; the tensor has them first."""
    region = Region((2, 3, 4), last=[0])
    region.output(region.activation(0, Kind.RELU))
    running = session(region.model(declared=[None]), build)
    with pytest.raises(Exception, match="FusedRegion: input 0 has another shape"):
        run(running, [np.zeros((5, 2, 3, 4), np.float32)])
    assert run(running, [np.zeros((5, 3, 4, 2), np.float32)])[0].shape == (5, 2, 3, 4)


def test_another_number_of_fields(build):
    region = network()
    for change in (-1, 1):
        code = region.program
        code[7] += change
        refused(build, region.model(program=code), "FusedRegion: an instruction has another number of fields")


def test_values_larger_than_can_be_counted(build):
    for shape in ((2**24, 2**24, 2**24), (2**24, 2**20, 2**20), (2, 2**15, 2**15)):
        code = [1, 4, *shape, 1, 7, 4, 0, 1, -1, -1, 1, 1, 4]
        refused(build, network().model(program=code), "FusedRegion: a value has too many elements")


@pytest.mark.parametrize("output", [(0, 3), (13, 2), (-1, 2), (9, 2)])
def test_an_output_that_is_none(build, output):
    region = network()
    region.outputs = [output]
    refused(build, region.model(), "FusedRegion: ")


def test_another_number_of_outputs(build):
    region = network()
    code = [*region.program[:-3], 2, 12, 2, 12, 2]
    refused(
        build, region.model(program=code), "FusedRegion: the node has another number of inputs or outputs"
    )


def test_weights_that_are_no_constants(build):
    refused(
        build, network().model(weights_as_inputs=True), "FusedRegion: weight 0 is not a constant of the graph"
    )


@pytest.mark.parametrize(
    "shape",
    [(2, 3, 9, 8), (2, 3, 9), (2, 3, 9, 9, 1), (2, 243), (2, 4, 9, 9), (), (243,)],
)
def test_another_shape_at_run_time(build, shape):
    region = network()
    running = session(region.model(declared=[None]), build)
    with pytest.raises(Exception, match="FusedRegion: input 0 has another shape than the program says"):
        run(running, [np.zeros(shape, np.float32)])
    assert run(running, region.random_inputs(2))[0].shape == (2, 5)


def test_two_batches(build):
    region = Region((2, 3, 3), (2, 3, 3))
    region.output(region.add(0, 1))
    running = session(region.model(declared=[None, None]), build)
    with pytest.raises(Exception, match="FusedRegion: input 1 has another shape"):
        run(running, [np.zeros((2, 2, 3, 3), np.float32), np.zeros((3, 2, 3, 3), np.float32)])


@pytest.mark.parametrize("option", ["threads", "exact"])
@pytest.mark.parametrize("value", ["x", "", "-1", "1025", "1.5", "1 ", "9" * 40])
def test_an_option_that_is_no_number(build, option, value):
    refused(build, network().model(), f"nncompile.{option} is '.*', not a number", options={option: value})


@examples(150)
@given(region=graphs(), changes=st.lists(st.tuples(st.integers(0), NUMBERS), min_size=1, max_size=3))
def test_a_program_with_some_numbers_changed(build, region, changes):
    code = region.program
    for place, number in changes:
        code[place % len(code)] = number
    try_program(build, region, code)


@examples(50)
@given(region=graphs(), code=st.lists(NUMBERS, max_size=40))
def test_a_program_of_random_numbers(build, region, code):
    try_program(build, region, code)


def try_program(build, region, code):
    """Refused, or run with the answer that PyTorch gives."""
    inputs = region.random_inputs(2)
    try:
        running = session(region.model(program=code, declared=[None] * len(inputs)), build, exact=True)
        got = run(running, inputs)
    except Exception as error:
        assert "FusedRegion" in str(error)  # noqa: PT017
        return
    assert_close(got, interpret(code, region.constants, region.weights, inputs))


def test_padding_beyond_all_memory(build):
    """With strides as large the result is small: 2^24 rows and columns each way."""
    region = network()
    opcode, fields = region.instructions[0]
    strides, pads = (2**24,) * 2, (2**24,) * 4
    region.instructions[0] = (opcode, (*fields[:5], *strides, 1, 1, *pads, 1))
    refused(build, region.model(), "FusedRegion: a padded value has too many elements")


OUT_OF_MEMORY = """
import resource, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
options.add_session_config_entry("nncompile.threads", sys.argv[3])
options.register_custom_ops_library(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = numpy.ones((4, 1, 512, 512), numpy.float32)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
unlimited = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (size + 2**25, unlimited[1]))
for _ in range(2):
    try:
        session.run(None, {"x0": x})
    except Exception as error:
        print(error)
resource.setrlimit(resource.RLIMIT_AS, unlimited)
print(session.run(None, {"x0": x})[0].ravel().tolist())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit as Linux has it")
@pytest.mark.parametrize("threads", [1, 2])
def test_out_of_memory(build, tmp_path, threads):
    """An arena of 67 MB that cannot be had: an error, and an answer as soon as it can."""
    region = Region((1, 512, 512))
    y = region.conv(0, np.ones((64, 1, 1, 1)))
    region.output(region.linear(region.global_average(y), np.ones((1, 64))))
    (tmp_path / "model.onnx").write_bytes(region.model())
    command = [sys.executable, "-c", OUT_OF_MEMORY, tmp_path / "model.onnx", library_path(build), threads]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *errors, answer = done.stdout.splitlines()
    assert len(errors) == 2
    assert all("FusedRegion: out of memory" in error for error in errors)
    assert answer == str([64.0] * 4)
