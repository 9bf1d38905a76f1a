"""Trainings whose numbers break: a short part of every case."""
from faults import suite, training


def test_what_breaks_ends_with_a_sentence_and_leaves_nothing_broken_behind(tmp_path):
    record = suite.tally(training.THEME, 60, 2, tmp_path)
    assert not record["faults"] and record["rounds"] == 60
    outcomes = {name: case["outcomes"] for name, case in record["cases"].items()}
    assert outcomes[training.RATES]["refused"] and outcomes[training.POISON]["refused"]
    assert outcomes[training.SIZES]["refused"] and outcomes[training.SIZES]["trained"]
    assert outcomes[training.LABELS] == {"refused": 12} and "trained" not in outcomes[training.WORKERS]
