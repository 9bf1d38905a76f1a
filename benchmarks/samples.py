"""Where the processor time of a training step goes, by function: samples of Linux's `perf`, a thousand a second.

Virtual machines often hide the processor's own counters; samples need none.
"""
import os
import shutil
import signal
import subprocess
import tempfile
import time

from .contender import Contender, NotMeasured, Reference
from .profile_step import WARM, Step

KINDS = (  # the first kind with a text in "LIBRARY;FUNCTION" counts
    ("products with weights", ("detail::multiply",)),
    ("products of two maps (gradients of weights, covariances)", ("detail::outer", "Convolution::add_gradient")),
    ("transforms of minimal filtering", ("winograd", "Filter", "Convolution::")),
    ("units and norms, element by element", ("atac::",)),
    ("threads that wait for each other", ("libgomp",)),
    ("copies and memory", ("libc.so", "libc-")),
)
REST = "MXNet, Python and the system"


class Samples(Contender):
    """Shares of the processor time of all threads, in `steps` steps."""

    def __init__(self, folder, fused, steps):
        if not shutil.which("perf"):
            raise NotMeasured("Linux's perf is not installed")
        about = Reference(folder).about
        step = Step(fused=fused, **{name: about[name] for name in ("model", "arguments", "batch", "size")})
        step.run(WARM)
        with tempfile.TemporaryDirectory() as place:
            self.about = {"shares": sampled(lambda: step.run(steps), os.path.join(place, "samples"))}


def sampled(work, path):
    """{kind: share of the samples} while work() runs."""
    perf = subprocess.Popen(["perf", "record", "-F", "1000", "-o", path, "-p", str(os.getpid())],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(1)  # until it is attached
    work()
    perf.send_signal(signal.SIGINT)
    _, said = perf.communicate()
    report = subprocess.run(["perf", "report", "-i", path, "--stdio", "--no-children", "-g", "none", "--sort",
                             "dso,symbol", "--field-separator", ";"], capture_output=True, text=True, check=False)
    lines = [line.strip() for line in report.stdout.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise NotMeasured(f"perf gave no samples ({(said or report.stderr).strip()[-200:]})")
    found = dict.fromkeys((*(name for name, _ in KINDS), REST), 0.0)
    for line in lines:
        share, _, where = line.partition(";")
        kind = next((name for name, texts in KINDS if any(text in where for text in texts)), REST)
        found[kind] += float(share.strip().rstrip("%")) / 100
    return {name: round(share, 4) for name, share in found.items()}
