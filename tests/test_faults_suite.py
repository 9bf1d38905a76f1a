"""The counted faults: their page is of the kept tallies, and these have no broken promise."""
from faults import report, suite


def test_the_page_is_up_to_date():
    page = report.PAGE.read_text(encoding="utf-8")
    assert page == report.rendered(page), "run python -m tests.faults.report"


def test_no_kept_tally_has_a_broken_promise():
    for name, record in suite.all_records().items():
        assert not record["faults"], name
