"""The suite of faults: rounds that repeat, a tally that is kept and rendered, and faults that it does find."""
import json
import random

import pytest
from faults import mutate, report, suite

from support.errors import InputError


def theme(outcomes):
    def run(rounds, seed, folder):
        for number in range(rounds):
            yield suite.Round("a case", *outcomes[number % len(outcomes)])
    return suite.Theme("theme", "A theme", 10, (suite.Case("a case", "much", "little"), suite.Case("another", "all")),
                       run)


def test_the_tally_counts_outcomes_and_keeps_what_explains_a_fault(tmp_path):
    record = suite.tally(theme([("refused", "x"), (suite.FAULT, "it fell over")]), 5, 3, tmp_path)
    assert record["rounds"] == record["asked"] == 5 and record["seed"] == 3
    assert record["cases"]["a case"]["outcomes"] == {"FAULT": 2, "refused": 3}
    assert record["cases"]["another"]["rounds"] == 0
    assert record["faults"] == ["a case: it fell over"] * 2
    assert "2 FAULT, 3 refused" in suite.as_text("theme", record)


def test_records_of_several_runs_are_kept_in_one_file(tmp_path):
    path = tmp_path / "new" / "kept.json"
    assert suite.read_records(path) == {}
    suite.keep(path, {"one": {"rounds": 1}})
    suite.keep(path, {"two": {"rounds": 2}})
    suite.keep(path, {"one": {"rounds": 3}})
    assert suite.read_records(path) == suite.all_records(path.parent) == {"one": {"rounds": 3}, "two": {"rounds": 2}}
    (path.parent / "other.json").write_text(path.read_text())
    with pytest.raises(InputError, match="both have the theme"):
        suite.all_records(path.parent)
    path.write_text("[]")
    with pytest.raises(InputError, match="holds no records of faults"):
        suite.read_records(path)


def test_a_row_has_the_counted_numbers_and_the_promise(tmp_path):
    made = theme([("refused", "")])
    text = report.table(made, suite.tally(made, 4, 0, tmp_path))
    assert "| a case | 4 | 4 refused | much | little |" in text and "| another | 0 | - | all | - |" in text
    assert "`python -m tests.faults --only theme --rounds 4 --seed 0`" in text
    assert "Not counted yet" in report.table(made, None)


def test_every_theme_says_what_is_promised_of_each_of_its_cases():
    for name, found in suite.themes().items():
        assert name == found.name and found.rounds > 0
        assert all(case.promised for case in found.cases)
        assert len({case.name for case in found.cases}) == len(found.cases)


def test_the_page_is_up_to_date():
    page = report.PAGE.read_text(encoding="utf-8")
    assert page == report.rendered(page), "run python -m tests.faults.report"


def test_no_kept_tally_has_a_broken_promise():
    for name, record in suite.all_records().items():
        assert not record["faults"], name


def test_damage_is_a_function_of_its_seed_and_damages():
    content = bytes(range(256)) * 8
    for seed in range(200):
        first, said = mutate.damaged(content, random.Random(seed), {"text": b"x"})
        assert (first, said) == mutate.damaged(content, random.Random(seed), {"text": b"x"}) and said
    changed = [mutate.damaged(content, random.Random(seed))[0] != content for seed in range(200)]
    assert sum(changed) > 180  # overwriting may write what was there
    assert all(mutate.damaged(b"", random.Random(seed))[1] for seed in range(50))  # nothing to damage, and no error


def test_odd_values_leave_the_original_alone():
    value = {"a": [1, {"b": "text"}], "c": 1.5, "d": True, "e": None}
    kept = json.dumps(value)
    odd = [mutate.odd(value, random.Random(seed))[0] for seed in range(200)]
    assert json.dumps(value) == kept
    assert sum(json.dumps(each) != kept for each in odd) > 180


def test_themes_are_chosen_by_name(capsys):
    from faults.__main__ import parse

    assert parse(["--only", "files", "--rounds", "3"]).only == ["files"]
    with pytest.raises(SystemExit):
        parse(["--only", "nonsense"])
    assert "invalid choice" in capsys.readouterr().err
