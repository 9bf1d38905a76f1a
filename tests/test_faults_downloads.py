"""Downloads from a server that misbehaves: a short part of every case."""
from faults import downloads, suite


def test_only_right_bytes_take_a_files_place_and_every_end_is_a_sentence(tmp_path):
    record = suite.tally(downloads.THEME, 160, 3, tmp_path)
    assert not record["faults"] and record["rounds"] == 160
    assert all(case["outcomes"].get("refused") for case in record["cases"].values())
    assert record["cases"][downloads.SERVED]["outcomes"]["fetched"] > 5
