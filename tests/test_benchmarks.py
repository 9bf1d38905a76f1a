"""The measuring harness, its contenders on tiny sizes, and the page that shows the records."""
import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from benchmarks import __main__ as command
from benchmarks import groups, harness, machine, profile_step, report, samples
from benchmarks.contender import NotMeasured, Reference
from support import allocator
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
QUICK = harness.Plan(repeats=2, seconds=0, threads=1, patience=120, quick=True)
GEMM = harness.Variant("gemm", "ceilings:Gemm", {"size": 8})


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed (requirements-bench.txt)")


def measured(*variants, plan=QUICK):
    """The record of a group of these variants, by their names."""
    with tempfile.TemporaryDirectory() as place:
        record = harness.measure(harness.Group("tests", "unit", variants), plan, harness.References(plan, place))
    return {variant["name"]: variant for variant in record["variants"]}


def some(group, *names):
    """Variants of a group of the quick scale, by name."""
    chosen, = (found for found in groups.groups(groups.QUICK) if found.name == group)
    found = [variant for variant in chosen.variants if variant.name in names]
    assert len(found) == len(names)
    return found


# ---- The harness

class FakeWorker:
    """Answers at once, and notes who was asked to measure."""

    asked = []
    speeds = {}

    def __init__(self, environment, patience):
        self.name = None

    def call(self, do, **order):
        if do == "make":
            self.name = order["contender"]
            return {"images": 1, "macs": 0, "bytes": 0, "about": {}}
        if do == "measure":
            self.asked.append(self.name)
            return {"seconds": self.speeds[self.name].pop(0)}
        return {"peak_mib": 1.0} if do == "end" else {}

    def seconds(self):
        return 0.0

    def end(self):
        pass


def test_variants_take_turns_and_ratios_are_of_the_same_round(monkeypatch):
    monkeypatch.setattr(harness, "Worker", FakeWorker)
    monkeypatch.setattr(harness, "PAUSE", 0)
    # The first number of each calibrates. The machine slows down fourfold, which no ratio may show.
    monkeypatch.setattr(FakeWorker, "asked", [])
    monkeypatch.setattr(FakeWorker, "speeds", {"a": [.1, 1., 2., 4.], "b": [.1, 3., 6., 12.]})
    found = measured(harness.Variant("first", "a"), harness.Variant("second", "b"),
                     plan=dataclasses.replace(QUICK, repeats=3))
    assert FakeWorker.asked == ["a", "b"] + ["a", "b"] * 3
    assert found["first"]["seconds"] == [1, 2, 4] and found["first"]["median"] == 2
    assert found["first"]["quartiles"] == [1.5, 3]
    assert found["second"]["ratio"] == {"median": 3, "quartiles": [3, 3]}


def test_a_turn_takes_as_many_units_as_fit(monkeypatch):
    monkeypatch.setattr(harness, "Worker", FakeWorker)
    monkeypatch.setattr(harness, "PAUSE", 0)
    monkeypatch.setattr(FakeWorker, "speeds", {"slow": [5., 5.], "fast": [.1, .1], "at once": [1e-9, 1e-9]})
    found = measured(*(harness.Variant(name, name) for name in ("slow", "fast", "at once")),
                     plan=dataclasses.replace(QUICK, repeats=1, seconds=.85))
    assert [found[name]["units_per_turn"] for name in found] == [1, 8, harness.MOST_UNITS]


def test_what_fails_is_named_and_stops_nothing():
    found = measured(
        GEMM, harness.Variant("no module", "nosuch:Thing"), harness.Variant("wrong", "ceilings:Gemm", {"sides": 8}),
        harness.Variant("no such net", "mxnet_contenders:PlainInference", {},
                        harness.Net(dataclasses.replace(tiny.experiment(), model="nosuch"))),
        harness.Variant("no memory", "ceilings:Gemm", {"size": 10**8}), dataclasses.replace(GEMM, name="last"))
    assert found["gemm"]["median"] > 0 and found["last"]["ratio"]["median"] > 0
    assert found["gemm"]["peak_mib"] > 1 and found["gemm"]["macs"] == 512
    assert found["no module"]["not_measured"] == "benchmarks.nosuch is not installed"
    assert "sides" in found["wrong"]["not_measured"] and found["wrong"]["not_measured"].startswith("TypeError")
    assert "unknown model 'nosuch'" in found["no such net"]["not_measured"]
    assert "Memory" in found["no memory"]["not_measured"]


def test_a_worker_that_dies_or_hangs_is_not_waited_for():
    worker = harness.Worker(machine.environment(1), patience=60)
    worker.call(do="make", contender="ceilings:Gemm", arguments={"size": 8})
    worker.process.kill()
    with pytest.raises(NotMeasured, match="ended with status -9"):
        worker.call(do="measure", count=1, warm=0)
    worker.end()
    worker = harness.Worker(machine.environment(1), patience=60)
    worker.call(do="make", contender="ceilings:Gemm", arguments={"size": 512})
    worker.patience = .2
    with pytest.raises(NotMeasured, match="did not answer within 0.2 seconds"):
        worker.call(do="measure", count=10**9, warm=0)
    assert worker.process.poll() is not None


def test_all_frameworks_get_the_same_environment():
    tuned, bare = machine.environment(3), machine.environment(3, tuned=False)
    assert tuned["OMP_NUM_THREADS"] == bare["OMP_NUM_THREADS"] == "3"
    clean = {name: value for name, value in os.environ.items() if name not in machine.ALL_SETTINGS}
    expected = allocator.to_set(clean)
    assert {name: tuned.get(name) for name in expected} == expected
    assert not set(allocator.NAMES) & set(bare)
    assert bare["MXNET_CPU_PARALLEL_SIZE"] == machine.MXNET_PARALLEL_SIZE != tuned["MXNET_CPU_PARALLEL_SIZE"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_processor_time_of_a_session_and_of_the_machine():
    before = machine.busy_seconds()
    work = "import os, time\nwhile time.process_time() < .3: pass\nprint(1, flush=True)\ninput()"
    process = subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               start_new_session=True)
    assert process.stdout.readline()
    assert .25 <= machine.session_seconds(process.pid) <= 2
    process.communicate(b"\n")
    assert machine.busy_seconds() - before > .25
    assert machine.peak_mib() > 10


# ---- Contenders

def test_training_steps_run_and_agree_with_the_plain_net():
    names = groups.OURS, groups.AUTHORS
    found = measured(*some("step/atac-b1", *names))
    assert [found[name].get("not_measured") for name in names] == [None] * 2
    batch = groups.QUICK.batch
    assert {found[name]["images"] for name in names} == {batch}
    assert {found[name]["macs"] for name in names} == {3 * batch * 14_336_640}  # 14.337M, three times
    assert found[groups.OURS]["about"]["losses_differ_by"] < 1e-3


def test_inference_and_pipelines_run():
    found = measured(*some("inference/atac-b1-n4", groups.OURS))
    assert found[groups.OURS]["about"]["logits_differ_by"] < 1e-4
    found = measured(*some("pipeline", groups.OURS, groups.AUTHORS))
    assert all(variant["median"] > 0 for variant in found.values())


def test_an_epoch_runs():
    found = measured(*some("epoch/atac-b1", groups.OURS))
    assert found[groups.OURS]["images"] == groups.QUICK.batch * groups.QUICK.steps


@needs("torch")
def test_pytorch_twins_agree_with_the_nets():
    found = measured(*some("step/atac-b1", groups.EAGER))
    assert "not_measured" not in found[groups.EAGER], found


@needs("onnx", "onnxruntime")
def test_onnx_runtime_agrees_with_the_net():
    assert "not_measured" not in measured(*some("inference/atac-b1-n1", groups.ONNX))[groups.ONNX]


def test_contenders_that_compute_something_else_are_refused(tmp_path):
    logits = np.arange(6.)[:, None] * [2, -2]
    Reference.write(tmp_path / "net", {"batch": 4}, {}, images=np.zeros((6, 1), np.float32), labels=np.zeros(6),
                    logits=logits / logits.std(), losses=[2., 1.])
    reference = Reference(tmp_path / "net")
    batches = np.concatenate([reference.logits, reference.logits])  # the last batch is filled up to four

    def answer(error):
        parts = iter((batches[:4], batches[4:8]))
        return lambda images: next(parts)[:len(images)] + error

    assert reference.check(answer(5e-5)) == pytest.approx(5e-5)
    assert reference.compare_losses([2.001, 1.]) == pytest.approx(5e-4)
    for wrong in (2e-4, np.nan):
        with pytest.raises(NotMeasured, match="logits differ"):
            reference.check(answer(wrong))
    with pytest.raises(NotMeasured, match="losses differ"):
        reference.compare_losses([2., 1.01])


# ---- The profile

def test_operators_are_sorted_into_kinds():
    kinds = {"_backward_Convolution": "convolution", "nag_mom_update": "update", "atac_nag": "update",
             "atac_block": "fused operators",
             "BatchNorm": "batch normalization", "broadcast_mul": "activations and gates", "nobody": "other operators",
             "log_softmax": "loss and metric", "CopyCPU2GPU": "copies", "_backward_FullyConnected": "dense"}
    assert {name: profile_step.kind_of(name) for name in kinds} == kinds


def test_the_profile_command_accounts_for_a_step():
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.profile_step", "--model", "resnet20_v2", "--blocks", "1", "--gpus", "",
         "--batch-size", "2", "--steps", "2", "--fused", "off", "--no-tune"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    about, kinds, _, *primitives = made.stdout.split("\n\n")
    assert "a step takes" in about
    rows = {line[:58].strip(): line[58:].split() for line in kinds.splitlines()[1:]}
    assert float(rows["convolution"][0]) == 2 * 9  # 7 3x3 and 2 shortcuts, forward and backward
    # Shares of the profiled step; the engine of a CPU runs one operator after the other.
    assert sum(float(row[-1].rstrip("%")) for row in rows.values()) == pytest.approx(100, abs=2)
    assert not primitives or "convolution  " in primitives[0]


def test_samples_say_where_the_time_goes(tmp_path):
    if not shutil.which("perf"):
        pytest.skip("Linux's perf is not installed")

    def work():
        end = time.monotonic() + 1
        while time.monotonic() < end:
            sum(range(1000))

    try:
        shares = samples.sampled(work, str(tmp_path / "samples"))
    except NotMeasured as reason:
        pytest.skip(f"perf may not be used here: {reason}")
    assert sum(shares.values()) == pytest.approx(1, abs=.02)
    assert max(shares, key=shares.get) == samples.REST


def test_a_wrong_net_is_one_sentence():
    made = subprocess.run([sys.executable, "-m", "benchmarks.profile_step", "--model", "nosuch", "--no-tune"], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert made.returncode != 0 and "unknown model 'nosuch'" in made.stderr and "Traceback" not in made.stderr


# ---- The command and its file

def test_records_of_several_runs_are_merged(tmp_path, capsys):
    out = tmp_path / "new" / "records.json"
    for text in ("ceilings/float32 GEMM (NumPy), 1", "ceilings/memory copy, 1 thread"):
        assert command.main(["--quick", "--only", text, "--repeats", "1", "--out", str(out)]) == 0
    records = harness.read_records(out)
    assert list(records["groups"]) == ["ceilings"]
    assert [variant["name"] for variant in records["groups"]["ceilings"]["variants"]] == ["memory copy, 1 thread"]
    records["groups"]["other"] = {"kept": True}
    harness.write_records(out, records)
    command.main(["--quick", "--only", "ceilings/memory copy, 1", "--repeats", "1", "--out", str(out)])
    record = harness.read_records(out)["groups"]
    assert record["other"] == {"kept": True} and record["ceilings"]["machine"]["processor"]
    assert "memory copy, 1 thread" in capsys.readouterr().out


def test_bad_input_is_a_sentence(tmp_path):
    with pytest.raises(InputError, match="--only nosuch"):
        command.main(["--only", "nosuch"])
    wrong = tmp_path / "records.json"
    wrong.write_text("[]")
    with pytest.raises(InputError, match="it is not an object; give another file with --out"):
        command.main(["--quick", "--only", "ceilings", "--out", str(wrong)])
    with pytest.raises(SystemExit):
        command.parse(["--repeats", "0"])


def test_every_net_meets_its_peers(capsys):
    command.main(["--list"])
    names = capsys.readouterr().out.splitlines()
    assert len(names) == len(set(names))
    for blocks in (1, 3, 5):
        for variant in (groups.OURS, groups.PLAIN, groups.AUTHORS, groups.EAGER, groups.COMPILED, groups.BFLOAT16):
            assert f"step/atac-b{blocks}/{variant}" in names
    assert {f"step/{unit}-b1/{groups.OURS}" for unit in groups.UNITS} <= set(names)
    assert "imagenet/training/ours" in names and "inference/atac-b3-n1/ONNX Runtime" in names


# ---- The page

def test_the_page_is_up_to_date():
    text = report.PAGE.read_text(encoding="utf-8")
    records = harness.read_records(command.DEFAULT_OUT)
    assert report.render(text, records["groups"]) == text, "run python -m benchmarks.report"


def invented(variants):
    """A record of these variants as measure() makes it; the n-th takes n seconds."""
    timed = [{"name": name, "threads": 2, "images": 128, "macs": 10**9, "bytes": 0, "elsewhere": .25, "peak_mib": 7.,
              "about": {"training_images": 5, "validation_images": 6}, "seconds": [index] * 2, "median": index,
              "quartiles": [index, index], "ratio": {"median": index, "quartiles": [index, index]}}
             for index, name in enumerate(variants, 1)]
    return {"unit": "unit", "date": "2000-01-01", "repeats": 2, "quick": False, "took_seconds": 3,
            "machine": machine.description(), "variants": timed}


def all_invented():
    stored = {group.name: invented([variant.name for variant in group.variants])
              for group in groups.groups(groups.Scale())}
    about = {"profiled_step_ms": 10., "step_ms": 9., "without_operator_ms": 1., "primitives": None,
             "kinds": [{"name": "convolution", "calls": 3., "ms": 9.}]}
    stored["profile/atac-b1"]["variants"] = [{"name": groups.OURS, "about": about}]
    stored["samples"]["variants"] = [{"name": "b=1", "about": {"shares": {"products with weights": .325}}}]
    return stored


def test_every_record_has_a_place_on_the_page():
    page, stored = report.PAGE.read_text(encoding="utf-8"), all_invented()
    text = report.render(page, stored)
    assert "Not measured yet" not in text
    for group in stored:  # each changes something when it is missing
        rest = {name: record for name, record in stored.items() if name != group}
        assert report.render(page, rest).replace(group, "") != text.replace(group, "")
    assert "| ours | 1,000 (1,000-1,000) | 1.00 |" in text
    assert "Measured: 5 training and 6 validation images." in text
    assert "| convolution | 3.00 | 9.00 | 90% |" in text and "| products with weights | 32% |" in text
    # A step of 1 GMAC in 1 s, where the product does 1 GMAC in 2 s at its fastest.
    assert f"| training step, b=1 | 1.00 | {report.number(2000.)} | 200% |" in text


def test_what_was_not_measured_stands_below_its_table():
    stored = all_invented()
    stored["step/atac-b1"]["variants"][2] = {"name": groups.EAGER, "not_measured": "torch is not installed"}
    text = report.render(report.PAGE.read_text(encoding="utf-8"), stored)
    assert f"Not measured: {groups.EAGER} (b=1): torch is not installed." in text
    assert f"| {groups.EAGER} | - | - |" in text


def test_quick_records_and_pages_without_places_are_refused():
    quick = {"ceilings": {**invented(["a"]), "quick": True}}
    with pytest.raises(InputError, match="--quick"):
        report.render(report.PAGE.read_text(encoding="utf-8"), quick)
    with pytest.raises(InputError, match="'conditions'"):
        report.render("nothing here", {})


def test_the_page_is_rendered_again(tmp_path, monkeypatch, capsys):
    page = tmp_path / "PERFORMANCE.md"
    page.write_text(report.PAGE.read_text(encoding="utf-8").replace("<!-- end -->", "typed by hand\n<!-- end -->", 1))
    monkeypatch.setattr(report, "PAGE", page)
    for _ in range(2):
        assert report.main([]) == 0 and "typed by hand" not in page.read_text()
    assert [line.rpartition(" were ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "rendered again", "up to date"]


def test_requirements_agree_with_those_of_the_project():
    pins = {line.split("==")[0]: line for line in (ROOT / "requirements-bench.txt").read_text().splitlines()
            if "==" in line}
    shared = [line for line in (ROOT / "requirements-cpu.txt").read_text().splitlines() if line.startswith("numpy==")]
    assert set(pins) == {"onnx", "onnxruntime"} | ({"numpy"} if shared else set())
    text = (ROOT / "requirements-bench.txt").read_text()
    assert all(line in text for line in shared) and "-r requirements-torch.txt" in text


def test_machine_is_described_in_json():
    description = json.loads(json.dumps(machine.description()))
    assert description["cores"] >= 1 and "mxnet" in description["packages"] or "mxnet-cu112" in description["packages"]
