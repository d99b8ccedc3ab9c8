"""What dynamo hands over: several graphs, sizes and numbers as inputs, views and numbers as outputs."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn


def batches(call, net, alike, sizes, *shape):
    for size in sizes:
        alike(call, net, torch.randn(size, *shape))


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def test_a_second_batch_size_compiles_for_any(compiled, compiles, alike, net):
    batches(compiled(net), net, alike, (2, 3, 5, 100), 4)
    assert [c["dynamic_batch"] for c in compiles] == [False, True]
    assert len(compiles[1]["model"].report.verification.batches) > 1


def test_any_batch_at_once(compiled, compiles, alike, net):
    batches(compiled(net, dynamic=True), net, alike, (2, 3, 7), 4)
    assert [c["dynamic_batch"] for c in compiles] == [True]


def test_each_batch_by_itself(compiled, compiles, alike, net):
    batches(compiled(net, dynamic=False), net, alike, (2, 3, 1), 4)
    assert [c["dynamic_batch"] for c in compiles] == [False] * 3


def test_a_batch_of_none(compiled, alike, net):
    assert alike(compiled(net), net, torch.randn(0, 4)).shape == (0, 3)


def test_another_size_compiles_for_each(compiled, compiles, alike):
    def model(x):
        return torch.relu(x).flatten(1).sum(1)

    call = compiled(model)
    for size in (3, 5, 6, 5):
        alike(call, model, torch.randn(2, size, 4))
    assert [c["shapes"] for c in compiles] == [[(2, size, 4)] for size in (3, 5, 6)]


def test_one_size_in_two_places_compiles_for_each(compiled, compiles, alike, caplog):
    """It is no batch, so that none is tried, nor spoken of."""

    def model(x):
        return torch.relu(x @ x)

    call = compiled(model)
    for size in (3, 4, 5):
        alike(call, model, torch.randn(size, size))
    assert [c["dynamic_batch"] for c in compiles] == [False] * 3
    assert [record for record in caplog.records if record.name == "nncompile"] == []


def test_an_input_that_has_the_batch_only_by_chance(compiled, compiles, alike):
    """The table has as many rows as the first batch that is compiled for any size."""

    def model(x, table):
        return torch.relu(x @ table)

    call, table = compiled(model), torch.randn(4, 4)
    for size in (3, 4, 5):
        alike(call, model, torch.randn(size, 4), table)
    assert [c["shapes"][0] for c in compiles] == [(3, 4), (8, 4)]


def test_batches_of_two_inputs(compiled, compiles, alike):
    def model(table, x, y):
        return torch.relu(x @ table + y)

    call, table = compiled(model), torch.randn(4, 4)
    for size in (3, 6, 5):
        alike(call, model, table, torch.randn(size, 4), torch.randn(size, 4))
    assert len(compiles) <= 3


def test_a_network_that_fixes_its_batch(compiled, compiles, alike, caplog):
    """Compiled for each size, and said so, but not refused: only dynamo thought of any batch."""

    def model(x):
        return nn.functional.adaptive_max_pool1d(torch.relu(x).t(), 2)

    call = compiled(model)
    for size in (4, 6, 7):
        alike(call, model, torch.randn(size, 4))
    static = [c["shapes"] for c in compiles if not c["dynamic_batch"]]
    assert static == [[(size, 4)] for size in (4, 6, 7)]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "nncompile"]
    assert line.startswith("A graph of torch.compile is compiled for each batch size apart.")


def test_graph_breaks(compiled, compiles, alike):
    """Two graphs, and what is between them in Python: other code, views, sizes."""
    linear = nn.Linear(4, 6).requires_grad_(False)
    seen = []

    def model(x):
        h = linear(x)
        a, b = h.chunk(2, dim=1)
        torch._dynamo.graph_break()
        seen.append(h.shape[0])
        return torch.relu(a * b + h[:, :3]), h.shape

    call = compiled(model)
    for size in (2, 3, 5):
        alike(call, model, torch.randn(size, 4))
    assert seen == [2, 2, 3, 3, 5, 5]
    assert len(compiles) >= 4


def test_views_stay_views(compiled, alike):
    linear = nn.Linear(4, 4).requires_grad_(False)

    def model(x):
        h = linear(x)
        return x.t(), x[1:], h, h[:, 0], h.chunk(2)[1], linear.weight.t(), x

    x = torch.randn(4, 4)
    turned, rest, h, column, half, weight, same = alike(compiled(model), model, x)
    assert same is x
    assert turned.data_ptr() == x.data_ptr()
    assert rest.data_ptr() == x[1:].data_ptr()
    assert column.data_ptr() == h.data_ptr()
    assert half.data_ptr() == h[2:].data_ptr()
    assert weight.data_ptr() == linear.weight.data_ptr()


def test_views_alone_compute_nothing(compiled, compiles, alike):
    def model(x):
        return x.t(), x.view(-1)

    alike(compiled(model), model, torch.randn(2, 3))
    assert compiles == []


def test_outputs_of_weights_alone(compiled, compiles, alike):
    linear = nn.Linear(4, 4)

    def model():
        return linear.weight @ linear.weight, torch.arange(3)

    call = compiled(model)
    with torch.no_grad():
        first, second = call()[0], call()[0]
    assert first.data_ptr() != second.data_ptr()
    first.zero_()
    alike(call, model)
    linear.weight.data.add_(1)
    alike(call, model)
    assert compiles == []


def test_a_size_of_an_input_that_is_not_computed_with(compiled, alike):
    """Only its view is returned, so that no input of what is compiled has the batch."""

    def model(x):
        return x.t(), torch.ones(x.shape[0], 3).cumsum(0)

    call = compiled(model)
    for size in (2, 3, 4):
        alike(call, model, torch.randn(size, 4))


def test_answers_have_memory_of_their_own(compiled, net):
    call, x = compiled(net), torch.randn(2, 4)
    with torch.no_grad():
        first = call(x)
        kept = first.clone()
        call(x + 1).zero_()
    assert torch.equal(first, kept)


def test_nests_numbers_and_none(compiled, alike):
    class Model(nn.Module):
        def forward(self, x, mask=None, *, scale=1.0, flags=()):
            y = torch.relu(x * scale)
            return {
                "y": y,
                "mask": mask,
                "n": x.shape[0],
                "flags": [*flags, len(flags), None],
                "all": (y.sum(),),
            }

    model = Model()
    call = compiled(model)
    alike(call, model, torch.randn(2, 3))
    alike(call, model, torch.randn(2, 3), torch.ones(3), scale=2.5, flags=(7, True))
    alike(call, model, torch.randn(5, 3), mask=torch.ones(3), scale=0.25)


def test_numbers_that_change(compiled, compiles, alike):
    """dynamo makes inputs of them; each value is compiled once."""

    def model(x, whole, real):
        return torch.relu(x * real + whole)

    call, x = compiled(model), torch.randn(2, 3)
    for whole, real in ((1, 0.5), (2, 0.75), (3, 0.25), (3, -0.25), (2, 0.75)):
        alike(call, model, x, whole, real)
    assert len(compiles) == 4


def test_the_sign_of_a_zero_among_numbers(compiled, alike):
    def model(x, real):
        return torch.relu(x) / (x * real)

    call, x = compiled(model), torch.ones(2, 3)
    for real in (1.0, 2.0, 0.0, -0.0):
        alike(call, model, x, real)


def test_arrays_of_numpy(compiled):
    def model(a):
        return np.tanh(a) * 2

    a = np.linspace(0, 1, 6).reshape(2, 3)
    got = compiled(model)(a)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, model(a), rtol=1e-12)


def test_embeddings_of_integers(compiled, alike):
    model = nn.EmbeddingBag(10, 4, mode="sum").eval()
    call = compiled(model)
    for size in (2, 3):
        alike(call, model, torch.randint(10, (size, 5)))


def test_writing_into_what_was_computed(compiled, alike):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()
    alike(compiled(model), model, torch.randn(2, 4))


def test_gradients_switched_off_inside(compiled, compiles):
    linear = nn.Linear(4, 4)

    @torch.no_grad()
    def model(x):
        return linear(x)

    x = torch.randn(2, 4)
    y = compiled(model)(x)
    assert not y.requires_grad
    torch.testing.assert_close(y, model(x))
    assert len(compiles) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(compiled, dtype):
    linear = nn.Linear(4, 4).to(dtype).requires_grad_(False)
    x = torch.randn(2, 4).to(dtype)
    y = compiled(linear)(x)
    assert y.dtype is dtype
    torch.testing.assert_close(y, linear(x), rtol=2e-2, atol=2e-2)


def test_the_random_state_is_left_alone(compiled, net):
    call = compiled(net)
    state = torch.get_rng_state()
    with torch.no_grad():
        call(torch.ones(2, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_several_threads(compiled, net):
    call, xs = compiled(net), [torch.randn(2, 4) for _ in range(16)]

    def both(x):
        with torch.no_grad():
            return call(x), net(x)

    with ThreadPoolExecutor(4) as pool:
        for got, wanted in pool.map(both, xs):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
