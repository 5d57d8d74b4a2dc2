"""Where a tower gets a thread of its own, and how it behaves there."""

import os
import threading

import pytest
import torch

from workers.backends.tower_thread import NICENESS, open_tower_thread

CPU = torch.device("cpu")


def test_a_tower_has_a_thread_only_where_a_core_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert open_tower_thread(CPU) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert open_tower_thread(torch.device("cuda")) is None
    opened = open_tower_thread(CPU)
    assert opened is not None
    opened.shutdown()


def test_the_thread_steps_back_behind_those_of_the_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 0)
    opened = open_tower_thread(CPU)
    assert opened is not None
    niceness = opened.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()
    assert niceness == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
    opened.shutdown()
