"""The short part of the faults that befall processes: killed, stopped, out of space, two at once, long at work.

At length: python -m tests.faults --only killed --only signals --only disk --only at_once --only memory
"""
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


# So short a work is hardly warm after its first fifth: its memory may grow a little more.
SHORT = {"steps": 400, "evaluated": 30, "restarted": 10, "bound": .06}


def test_long_work_does_not_grow(tmp_path):
    record(memory.THEME, lambda *where: memory.run_all(*where, **SHORT), 4, tmp_path)
