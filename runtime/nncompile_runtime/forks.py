"""A process that forks after it loaded a model: the child opens sessions of its own.

A forked child has none of its parent's threads. ONNX Runtime's pool would leave a call to the calling thread,
and what another thread was in the midst of at the fork may keep a lock for ever: such children hang now and
then. So what holds sessions gives them up in the child, where the next call opens new ones.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any, Protocol
from weakref import WeakSet


class Holder(Protocol):
    """What holds sessions."""

    def give_up_sessions(self) -> None:
        """Forget the parent's sessions, without waiting for a lock."""


_holders: WeakSet[Holder] = WeakSet()


def give_up_when_forked(holder: Holder) -> None:
    """Have `holder` give up its sessions in every forked child, for as long as it lives."""
    _holders.add(holder)


def keep_for_ever(*given_up: Any) -> None:
    """Keep what the parent's threads may have been in the midst of: freeing it could wait for them.

    Beyond the end of the interpreter, too, which frees what modules hold: a session on a GPU would call CUDA.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(given_up))


def waited_for_by_forks(lock: threading.Lock) -> threading.Lock:
    """Have forks wait until `lock` is free; it is free in the child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


def _in_the_child() -> None:
    for holder in list(_holders):
        holder.give_up_sessions()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_the_child)
