import os
import subprocess
import sys
import time

import pytest

from nncompile.bench.disturbance import Disturbance, Watch

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def stat(tmp_path):
    """A /proc/stat to write seconds into: user, nice, system, idle, iowait, irq, softirq, steal, guest."""
    file = tmp_path / "stat"

    def write(**seconds):
        names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
        times = " ".join(str(round(seconds.get(name, 0) * TICKS)) for name in names)
        file.write_text(f"cpu  {times}\ncpu0 {times}\nintr 1 2 3\n")
        return file

    return write


@pytest.mark.parametrize("kind", ["user", "nice", "system", "irq", "softirq", "steal"])
def test_others_are_what_the_processors_did_besides(stat, kind):
    watch = Watch(stat(user=1000))
    with watch:
        time.sleep(0.05)
        stat(**{"user": 1000, kind: 5000 if kind != "user" else 6000})
    seen = watch.seen(0.5, 2)
    assert seen.others > 1000  # 5000 seconds in a small part of one
    assert (seen.load, seen.threads, seen.processors) == (0.5, 2, os.cpu_count())


@pytest.mark.parametrize("kind", ["idle", "iowait", "guest", "guest_nice"])
def test_idling_and_what_is_counted_twice_are_not(stat, kind):
    watch = Watch(stat(user=1000))
    with watch:
        stat(**{"user": 1000, kind: 5000})
    assert watch.seen(0.0, 2).others == 0


def test_what_runs_between_two_looks_does_not_count(stat):
    watch = Watch(stat(user=1000))
    with watch:
        pass
    stat(user=9000)
    with watch:
        time.sleep(0.01)
    assert watch.seen(0.0, 2).others == 0
    with watch:
        stat(user=9010)
    assert watch.seen(0.0, 2).others > 10


def test_our_own_work_and_our_childrens_is_not_others(stat):
    watch = Watch(stat(user=1000))
    before = os.times()
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    with watch:
        subprocess.run([sys.executable, "-c", burn], check=True)
        after = os.times()
        child = sum(after[2:4]) - sum(before[2:4])
        assert child >= 0.15
        stat(user=1000 + child)
    assert watch.seen(0.0, 2).others < 1e-6


@pytest.mark.skipif(sys.platform != "linux", reason="processors' times are read from /proc")
def test_this_system_tells():
    watch = Watch()
    with watch:
        time.sleep(0.01)
    seen = watch.seen(0.0, 1)
    assert seen is not None
    assert seen.others >= 0


@pytest.mark.parametrize("text", [None, "", "cpu\nnot numbers", "cpu  a b c"])
def test_where_the_system_does_not_tell_nothing_is_said(tmp_path, text):
    file = tmp_path / "stat"
    if text is not None:
        file.write_text(text)
    watch = Watch(file)
    with watch:
        time.sleep(0.01)
    assert watch.seen(0.0, 2) is None


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (Disturbance(2.0, 0.1, 2, 2), None),
        (Disturbance(2.1, 0.0, 2, 2), "the load average was 2.1 when it began"),
        (Disturbance(0.0, 0.2, 2, 2), "others kept 0.2 processors busy meanwhile"),
        (Disturbance(8.0, 7.0, 16, 8), None),  # enough processors are left
        (Disturbance(8.0, 9.0, 16, 8), "others kept 9.0 processors busy meanwhile"),
        (Disturbance(5.0, 1.0, 2, 2), "when it began and others kept 1.0 processors busy"),
    ],
)
def test_a_busy_machine_is_warned_of(seen, says):
    if says is None:
        assert seen.warning is None
    else:
        assert says in seen.warning
        assert f"{seen.processors} processors was not quiet" in seen.warning
