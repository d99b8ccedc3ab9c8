"""What `pyspark.ml.functions.predict_batch_udf` asks of a predictor.

Its source (4.3) pickles `make_predict_fn` by value, calls it once in each worker, counts the parameters of
what it returns, and gives that one array for each, of `batch_size` rows or fewer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from runtime.graphs import adding, conv_net, doubling, floats, manifest, predictor

cloudpickle = pytest.importorskip("joblib.externals.cloudpickle")


def predict_batch(make_predict_fn: Callable[[], Any], columns: list[np.ndarray], rows: int) -> Any:
    """The rows of the answers, as a worker makes them."""
    predict = cloudpickle.loads(cloudpickle.dumps(make_predict_fn))()
    assert len(inspect.signature(predict).parameters) == len(columns)
    answers = [
        predict(*(column[start : start + rows] for column in columns))
        for start in range(0, len(columns[0]), rows)
    ]
    assert all(len(answer) <= rows for answer in answers)
    return np.concatenate(answers)


def test_one_input() -> None:
    model, *ports = conv_net()
    net, x = predictor(model, manifest(*ports), plan={"threads": 1}), floats(10, 1, 8, 8)
    np.testing.assert_allclose(predict_batch(lambda: net, [x], 4), net(x), rtol=1e-5, atol=1e-6)


def test_several_inputs() -> None:
    net, a, b = adding(), floats(5, 3), floats(5, 3, seed=1)
    np.testing.assert_array_equal(predict_batch(lambda: net, [a, b], 2), a + b)


def test_a_bound_method_would_not_do() -> None:
    """Spark takes *args and **kwargs for two inputs; the predictor itself tells its own."""
    net = doubling()
    assert len(inspect.signature(net.predict).parameters) == 2
    assert len(inspect.signature(net).parameters) == 1
