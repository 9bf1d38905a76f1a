"""The process of one contender: `python -m benchmarks.worker`, controlled by lines of JSON on its standard input.

A line names the order ("make", "measure", "forget_peak", "end"); the answer is one line of JSON. Between two orders the
process sleeps.
"""
import importlib
import json
import os
import sys
import traceback

from . import machine
from .contender import NotMeasured


def make(contender, arguments):
    """The contender named "module:Class" of this package."""
    module, _, name = contender.partition(":")
    return getattr(importlib.import_module(f"benchmarks.{module}"), name)(**arguments)


def reason(error):
    """One line that says why something failed."""
    if isinstance(error, NotMeasured):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name} is not installed"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Traceback"):  # MXNet's traceback of C++ functions ends with the reason
        lines = lines[-1:]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def answers(lines):
    """Carry out each line and yield its answer."""
    contender = None
    for line in lines:
        order = json.loads(line)
        try:
            if order["do"] == "make":
                contender = make(order["contender"], order["arguments"])
                yield {"images": contender.images, "macs": contender.macs, "bytes": contender.bytes,
                       "about": contender.about}
            elif order["do"] == "measure":
                if order["warm"]:
                    contender.work(order["warm"])
                yield {"seconds": contender.measure(order["count"])}
            elif order["do"] == "forget_peak":
                machine.forget_peak()
                yield {}
            else:
                yield {"peak_mib": machine.peak_mib()}
                return
        except Exception as error:  # a contender that fails must not stop the others
            traceback.print_exc()
            yield {"not_measured": reason(error)}


def main():
    # Output of libraries must not come between the answers.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for answer in answers(sys.stdin):
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
