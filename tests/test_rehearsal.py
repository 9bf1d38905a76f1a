"""The rehearsal on a sample of ImageNet: its page, and what it refuses."""
import pytest

from reproduce import rehearsal
from support.errors import InputError


def test_the_record_is_of_a_rehearsal_that_went_well():
    record = rehearsal.read()
    assert record["resume"]["equal"] == record["resume"]["arrays"] > 447 and record["resume"]["metrics_equal"]
    assert record["overfit"][-1]["val_accuracy"] > .9 > record["overfit"][0]["val_accuracy"]
    for folders, records in zip(record["scores"][::2], record["scores"][1::2]):
        assert folders["source"] == "folders" and records["source"] == "record file"
        assert {**folders, "source": "", "loss": 0} == {**records, "source": "", "loss": 0}
        assert folders["loss"] == pytest.approx(records["loss"], rel=1e-12)  # sums in another order


def test_differences_would_be_said():
    record = rehearsal.read()
    record["resume"].update(equal=3, metrics_equal=False)
    assert "3 of" in rehearsal.findings(record) and "DIFFER" in rehearsal.findings(record)


def test_a_folder_of_too_few_classes_is_refused(tmp_path):
    (tmp_path / "n01440764").mkdir()
    with pytest.raises(InputError, match="has 1 class folders, but 32 are needed"):
        rehearsal.rehearse(tmp_path)


def test_a_command_that_fails_ends_the_rehearsal(tmp_path):
    job = rehearsal.Rehearsal(tmp_path, tmp_path)
    with pytest.raises(InputError, match="ended with status 2, not 0: train_imagenet.py: .*xxx"):
        job.run("wrong", ["train_imagenet.py", "--model", "xxx"])
