"""The short part of the faults that befall processes: killed, stopped, out of space, two at once, long at work.

At length: python -m tests.faults --only killed --only signals --only disk --only at_once --only memory
"""
import functools

import pytest
from faults import at_once, disk, killed, memory, signals, suite


def record(theme, run, rounds, folder, seed=0):
    """The record of a short run of a theme, which has to be without a fault."""
    short = suite.Theme(theme.name, theme.title, rounds, theme.cases, run)
    found = suite.tally(short, rounds, seed, folder)
    assert not found["faults"], "\n".join(found["faults"])
    return found


def outcomes(found, case):
    return found["cases"][case]["outcomes"]


def test_a_training_a_ledger_and_a_download_that_are_killed_lose_nothing(tmp_path):
    found = record(killed.THEME, lambda *where: killed.run(*where, epochs=3), 6, tmp_path)
    assert found["cases"][killed.TRAINING]["rounds"] == 2
    assert outcomes(found, killed.END)["the same to the bit"] >= 2  # the undisturbed one and the one that was killed
    assert found["cases"][killed.LEDGER]["rounds"] == found["cases"][killed.DOWNLOAD]["rounds"] == 2


@pytest.mark.parametrize("change", [
    lambda run: (run / "last.params").write_bytes((run / "last.params").read_bytes()[:-1]),
    lambda run: (run / "last.params.1.part").write_bytes(b"") or (run / "last.params.2.part").write_bytes(b""),
    lambda run: (run / "last.params").unlink(), lambda run: (run / "stray").write_bytes(b"")])
def test_a_folder_that_lost_something_is_noticed(finished, change):
    killed.copy_of_run(finished, finished.parent / "changed", 0)
    assert killed.small_runs.wrong_in(finished.parent / "changed", (1, 0)) is None
    change(finished.parent / "changed")
    assert killed.small_runs.wrong_in(finished.parent / "changed", (1, 0)) is not None


@pytest.mark.parametrize("file", ["last.params", "best.params", "metrics.jsonl", "result.json"])
def test_a_run_that_came_to_something_else_is_noticed(finished, file):
    expected = killed.small_runs.outcome_of(finished)
    killed.copy_of_run(finished, finished.parent / "changed", 0)
    assert killed.small_runs.difference(finished.parent / "changed", expected) is None
    content = (finished / file).read_text(errors="surrogateescape") if not file.endswith(".params") else None
    if content is None:
        (finished.parent / "changed" / file).write_bytes(b"")
    else:
        (finished.parent / "changed" / file).write_text(content.replace("40", "41"))
    assert killed.small_runs.difference(finished.parent / "changed", expected) is not None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    setting = killed.small_runs.Setting(tmp_path_factory.mktemp("finished"), 1)
    assert setting.expected
    return setting.folder / "undisturbed" / "run"


def test_signals_and_terminals_that_close_leave_a_run_to_go_on_with(tmp_path):
    found = record(signals.THEME, lambda *where: signals.run(*where, epochs=3, test=300, seconds=2.0), 8, tmp_path)
    assert found["cases"][signals.TWICE]["rounds"] + found["cases"][signals.ONCE]["rounds"] >= 4


def test_full_disks_end_in_a_sentence_and_lose_nothing(tmp_path):
    record(disk.THEME, lambda *where: disk.run(*where, epochs=2), 5, tmp_path)


def test_without_a_disk_of_its_own_a_limit_on_files_stands_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.Disk, "mount", lambda *_: 1)
    found = record(disk.THEME, lambda *where: disk.run(*where, epochs=2), 3, tmp_path)
    assert found["cases"][disk.LIMITED]["rounds"] == 1 and found["cases"][disk.TRAINING]["rounds"] == 0


def test_two_at_the_same_thing_wait_or_are_refused(tmp_path):
    record(at_once.THEME, lambda *where: at_once.run(*where, epochs=2), 5, tmp_path)


SHORT = {"steps": 400, "evaluated": 30, "restarted": 10}


def test_long_work_does_not_grow(tmp_path):
    record(memory.THEME, lambda *where: memory.run_all(*where, **SHORT), 4, tmp_path)


def test_what_is_kept_is_noticed(tmp_path):
    run = functools.partial(memory.run_all, kinds=memory.KINDS[1:2], **SHORT, leak=400_000)
    found = suite.tally(suite.Theme("memory", "", 1, memory.THEME.cases, run), 1, 0, tmp_path)
    assert len(found["faults"]) == 1 and "MiB when warm" in found["faults"][0]
