"""Nets that nobody holds leave memory as new ones are made, whatever Python's own collector does."""
import ctypes
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from support import garbage

ROOT = Path(__file__).resolve().parent.parent
# A net has 98 MiB of weights, and twice that with gradients. Python's own collector, which may run or not, is off.
MANY = """
import gc
gc.disable()
import mxnet as mx
from model import get_model
from support import garbage

first = None
for _ in range(12):
    net = get_model("resnet50_v1b")
    net.initialize(mx.init.Zero())
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd")
    mx.nd.waitall()
    first = first or garbage.resident()
print((garbage.resident() - first) >> 20)
"""

# Bytes that the C library has given out, before and after a net was counted and folded some times.
TRACED = """
import ctypes
import gc
import mxnet as mx
from model import complexity, get_model, inference

fields = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
Info = type("Info", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in fields]})
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info

def given_out():
    gc.collect()
    mx.nd.waitall()
    info = mallinfo()
    return info.uordblks + info.hblkhd

net = get_model("atac_resnet20_v2", blocks=1)
net.initialize()
def trace():
    inference.fold(net)
    complexity.count(net)

for _ in range(5):
    trace()
before = given_out()
for _ in range(20):
    trace()
print((given_out() - before) // 20)
"""


class Circle:
    def __init__(self):
        self.me = self


def test_memory_that_was_given_back_does_not_count_as_room_for_dead_nets(monkeypatch):
    monkeypatch.setattr(garbage, "_before", 5 << 30)
    for size, collections in ((1 << 30, 0), ((1 << 30) + garbage.GROWTH, 1)):
        found = []
        monkeypatch.setattr(garbage, "resident", lambda size=size: size)
        monkeypatch.setattr(gc, "collect", lambda found=found: found.append(1))
        garbage.collect()
        assert len(found) == collections


@pytest.mark.parametrize("growth, freed", [(garbage.GROWTH, True), (garbage.GROWTH - 1, False)])
def test_circles_are_freed_once_the_process_has_grown(monkeypatch, growth, freed):
    monkeypatch.setattr(garbage, "_before", 5 << 30)
    monkeypatch.setattr(garbage, "resident", lambda: (5 << 30) + growth)
    gc.disable()
    try:
        circle = weakref.ref(Circle())
        garbage.collect()
        assert (circle() is None) == freed
    finally:
        gc.enable()


def test_many_nets_in_one_process_need_the_memory_of_a_few():
    run = subprocess.run([sys.executable, "-c", MANY], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 800  # MiB; without collections 2,200


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library cannot count what it gave out")
def test_a_traced_net_leaves_nothing_behind():
    run = subprocess.run([sys.executable, "-c", TRACED], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 30_000  # bytes; one of MXNet's own copies of this graph has 160,000
