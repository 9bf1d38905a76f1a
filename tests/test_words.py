"""Numbers with their nouns and units."""
import pytest

from support.words import counted, duration


@pytest.mark.parametrize("count, noun, text", [
    (1, "epoch", "1 epoch"), (0, "run", "0 runs"), (12000, "image", "12,000 images"), (2, "epoch", "2 epochs"),
    (3, "class", "3 classes"), (4, "batch", "4 batches"), (1, "class", "1 class")])
def test_a_number_has_its_noun(count, noun, text):
    assert counted(count, noun) == text


@pytest.mark.parametrize("seconds, text", [(4.4, "4 s"), (600, "10 min"), (9000, "2.5 h"), (3 * 86400, "3.0 days")])
def test_seconds_in_words(seconds, text):
    assert duration(seconds) == text
