"""Worker processes: forked ones open sessions of their own, spawned ones get a pickle."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nncompile import DeviceError, Plan, Predictor
from nncompile_runtime import session as sessions
from nncompile_runtime.regimes import Regimes, Sessions

from .graphs import conv_net, doubling, floats, manifest, predictor

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


def conv(**options: Any) -> Predictor:
    model, *ports = conv_net()
    return predictor(model, manifest(*ports), **options)


def in_a_child(holds: Callable[[], bool]) -> bool:
    """Whether it does in a forked child, within half a minute."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if holds() else 1)
        finally:
            os._exit(2)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


@needs_fork
class TestForks:
    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_child_answers_in_a_session_of_its_own(self, threads: int) -> None:
        net, x = conv(plan=Plan(threads=threads)), floats(3, 1, 8, 8)
        y, mine = net(x), net.session

        def holds() -> bool:
            unopened = len(net._regimes.sessions) == 0
            same = np.array_equal(net(x), y) and np.array_equal(net(x[:2]), net(x)[:2])
            opened = len(net._regimes.sessions) == 1
            return unopened and same and opened and net.session is not mine

        assert in_a_child(holds)
        assert net.session is mine
        np.testing.assert_array_equal(net(x), y)

    def test_what_the_parent_had_checked_is_checked_anew(self) -> None:
        """Else the call would go straight to the parent's session."""
        net, x = conv(), floats(3, 1, 8, 8)
        net(x)
        assert list(net._accepted) == [x.shape]
        assert in_a_child(lambda: not net._accepted and net._accepted is net._regimes.checked)
        assert list(net._accepted) == [x.shape]

    def test_a_child_of_a_child(self) -> None:
        net, x = conv(), floats(3, 1, 8, 8)
        y = net(x)
        assert in_a_child(lambda: np.array_equal(net(x), y) and in_a_child(lambda: np.array_equal(net(x), y)))

    def test_plans_by_batch_and_pieces(self) -> None:
        net = doubling(plan=Plan(micro_batch=2, workers=2))
        x = floats(9, 4)
        net(x)
        assert in_a_child(lambda: np.array_equal(net(x), 2 * x) and net.plan.workers == 2)

    def test_while_other_threads_predict(self) -> None:
        net, x, stop = conv(plan=Plan(threads=2)), floats(64, 1, 8, 8), threading.Event()
        y = net(x)

        def work() -> None:
            while not stop.is_set():
                net(x)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            assert all(in_a_child(lambda: np.array_equal(net(x), y)) for _ in range(10))
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def test_a_fork_waits_until_a_session_is_made(self) -> None:
        made = threading.Event()

        def make() -> None:
            with sessions._creation:
                held.set()
                time.sleep(0.2)
                made.set()

        held = threading.Event()
        thread = threading.Thread(target=make)
        thread.start()
        held.wait()
        assert in_a_child(lambda: made.is_set() and sessions._creation.acquire(timeout=5))
        thread.join()
        assert not sessions._creation.locked()

    def test_predictors_that_are_gone_are_forgotten(self) -> None:
        from nncompile_runtime import forks

        net = conv()
        assert net._regimes in forks._holders
        before = len(forks._holders)
        del net
        assert len(forks._holders) < before

    def test_on_a_gpu_the_error_says_what_to_do(self) -> None:
        """CUDA cannot be used in the child of a process that used it."""
        file = conv()._file
        regimes = Regimes(
            {1: Plan(provider="cuda", device_id=1)},
            Sessions(file),
            file.manifest.signature,
            rows_independent=True,
        )
        regimes.give_up_sessions()
        with pytest.raises(DeviceError, match="loaded on cuda:1 before this process was forked") as caught:
            regimes.runner(1)
        assert "spawn" in caught.value.remedy


@pytest.mark.parametrize(("keep", "said"), [("keep_for_ever(Told())", b""), ("kept = Told()", b"let go of")])
def test_what_is_kept_for_ever_outlives_the_interpreter(keep: str, said: bytes) -> None:
    program = f"""
import os
from nncompile_runtime.forks import keep_for_ever
class Told:
    def __del__(self, write=os.write): write(1, b"let go of")
{keep}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=True)
    assert done.stdout == said


_shared: Predictor


def ask_shared(x: np.ndarray) -> np.ndarray:
    return _shared(x)


def ask(net: Predictor, x: np.ndarray) -> tuple[int, np.ndarray]:
    return os.getpid(), net(x)


class TestWorkers:
    @pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
    def test_a_predictor_is_sent_to_a_pool(self, method: str) -> None:
        if method not in multiprocessing.get_all_start_methods():
            pytest.skip(f"no {method}")
        net, x = conv(plan=Plan(threads=1)), floats(3, 1, 8, 8)
        with multiprocessing.get_context(method).Pool(1) as pool:
            pid, y = pool.apply_async(ask, (net, x)).get(timeout=60)
        assert pid != os.getpid()
        np.testing.assert_array_equal(y, net(x))

    @needs_fork
    def test_a_pool_that_forks_inherits_one(self) -> None:
        global _shared
        _shared, xs = conv(), [floats(n, 1, 8, 8, seed=n) for n in range(1, 5)]
        expected = [_shared(x) for x in xs]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map_async(ask_shared, xs).get(timeout=60)
        for y, answer in zip(found, expected, strict=True):
            np.testing.assert_array_equal(y, answer)

    def test_joblib(self) -> None:
        joblib = pytest.importorskip("joblib")
        net, x = conv(plan=Plan(threads=1)), floats(4, 1, 8, 8)
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(net)(x[i : i + 1]) for i in range(4))
        np.testing.assert_allclose(np.concatenate(found), net(x), rtol=1e-6, atol=1e-6)

    @needs_fork
    def test_the_workers_of_a_data_loader(self) -> None:
        data = pytest.importorskip("torch").utils.data
        net, x = conv(), floats(6, 1, 8, 8)
        net(x)

        class Features(data.Dataset):
            def __len__(self) -> int:
                return len(x)

            def __getitem__(self, i: int) -> np.ndarray:
                return net(x[i : i + 1])[0]

        loader = data.DataLoader(Features(), batch_size=3, num_workers=2, multiprocessing_context="fork")
        found = np.concatenate([batch.numpy() for batch in loader])
        np.testing.assert_allclose(found, net(x), rtol=1e-6, atol=1e-6)
