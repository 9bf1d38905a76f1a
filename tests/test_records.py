"""engine/data/records.py: record files read at random, and what is refused."""
import struct
from concurrent.futures import ThreadPoolExecutor

import imagenet_files as files
import mxnet as mx
import numpy as np
import pytest

from engine.data.records import MAGIC, Damaged, RecordFile
from support.errors import InputError


def opened(rec):
    return RecordFile(rec, rec.with_suffix(".idx"))


def refusal(rec):
    with pytest.raises(InputError) as caught:
        opened(rec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


CONTENTS = [bytes([number]) * (5 * number + 1) for number in range(20)]


def test_what_mxnet_has_written_is_read_in_any_order_by_many_threads(tmp_path):
    keys = [100 - number for number in range(20)]
    record = opened(files.record_file(tmp_path / "a", CONTENTS, keys=keys))
    assert len(record) == 20 and record.keys.tolist() == keys and record.damage() is None
    order = np.random.RandomState(0).randint(0, 20, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(record.read, order)) == [(number % 3, CONTENTS[number]) for number in order]
    np.testing.assert_array_equal(record.labels(), np.arange(20) % 3)


@pytest.mark.parametrize("shift", range(4))
def test_an_image_that_holds_the_magic_number_lies_in_parts(tmp_path, shift):
    magic = struct.pack("<I", MAGIC)
    contents = [b"x" * shift + magic + b"between" + magic + magic + b"end", magic, b"x" * (100 + shift) + magic]
    record = opened(files.record_file(tmp_path / "a", contents))
    flags = [int.from_bytes((tmp_path / "a.rec").read_bytes()[offset + 4:offset + 8], "little") >> 29
             for offset in record.offsets]
    assert shift or flags[:2] == [1, 1]  # aligned, so that it is cut there
    assert [record.read(number)[1] for number in range(3)] == contents


def test_a_label_in_an_array_of_one_is_a_label_and_more_are_damage(tmp_path):
    record = mx.recordio.MXIndexedRecordIO(str(tmp_path / "a.idx"), str(tmp_path / "a.rec"), "w")
    for number, label in enumerate(([7.0], [7.0, 8.0])):
        record.write_idx(number, mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), b"image"))
    record.close()
    record = opened(tmp_path / "a.rec")
    assert record.read(0) == (7.0, b"image")
    with pytest.raises(Damaged, match="2 labels"):
        record.read(1)
    labels = record.labels()
    assert labels[0] == 7 and np.isnan(labels[1])


def test_records_behind_a_cut_are_counted_and_damaged_and_the_others_are_read(tmp_path):
    rec = files.record_file(tmp_path / "a", CONTENTS)
    whole = opened(rec)
    cut = int(whole.offsets[15]) + 20  # inside record 15
    rec.write_bytes(rec.read_bytes()[:cut])
    record = opened(rec)
    assert "4 of 20 records are missing" in record.damage()
    assert [record.read(number)[1] for number in range(15)] == CONTENTS[:15]
    for number, words in ((15, "inside the record"), (16, "ends at byte"), (19, "ends at byte")):
        with pytest.raises(Damaged, match=words):
            record.read(number)
    assert np.isnan(record.labels()).tolist() == [False] * 15 + [True] * 5


def test_a_wrong_magic_number_and_a_broken_chain_of_parts_are_damage(tmp_path):
    rec = files.record_file(tmp_path / "a", CONTENTS)
    offsets = opened(rec).offsets
    content = bytearray(rec.read_bytes())
    content[offsets[3]] ^= 1
    content[offsets[5] + 7] |= 0x40  # a middle part without a first
    content[offsets[7] + 7] |= 0x20  # a first part without a last
    rec.write_bytes(content)
    record = opened(rec)
    for number in (3, 5, 7):
        with pytest.raises(Damaged):
            record.read(number)
    assert record.read(4)[1] == CONTENTS[4]


def test_an_index_of_another_file_is_refused_and_a_damaged_first_record_is_not_its_fault(tmp_path):
    first = files.record_file(tmp_path / "a", CONTENTS)
    second = files.record_file(tmp_path / "b", [content + b"some more" for content in CONTENTS])
    for rec, index in ((first, second), (second, first)):  # both have a record at byte 0
        with pytest.raises(InputError, match="that belong together"):
            RecordFile(rec, index.with_suffix(".idx"))
    first.write_bytes(b"junk" + first.read_bytes()[4:])
    record = opened(first)
    with pytest.raises(Damaged, match="no record begins at byte 0"):
        record.read(0)
    assert record.read(1)[1] == CONTENTS[1]


def test_a_record_without_room_for_its_header_is_damage(tmp_path):
    (tmp_path / "a.rec").write_bytes(struct.pack("<II", MAGIC, 4) + b"four")
    (tmp_path / "a.idx").write_text("0\t0\n")
    with pytest.raises(Damaged, match="4 bytes"):
        opened(tmp_path / "a.rec").read(0)


@pytest.mark.parametrize("index, words", [
    ("", "is empty"), ("\n \n", "is empty"), ("0\t0\n1 40\n", "line 2"), ("0\t0\nabc\t1\n", "line 2"),
    ("0\t-5\n", "line 1"), ("0\t" + 30 * "9" + "\n", "line 1"), ("0\t0\n0\t40\n", "twice"), ("0\t0\n1\t0\n", "twice"),
    ("0\t3\n1\t40\n", "no record begins"), ("\x00\x01\x02", "line 1")])
def test_an_index_that_is_none_is_refused(tmp_path, index, words):
    rec = files.record_file(tmp_path / "a", CONTENTS)
    (tmp_path / "a.idx").write_text(index)
    assert words in refusal(rec)


def test_missing_and_empty_files_are_refused(tmp_path):
    rec = files.record_file(tmp_path / "a", CONTENTS)
    assert "cannot read" in refusal(tmp_path / "b.rec")
    rec.write_bytes(b"")
    assert "is empty" in refusal(rec)
    rec.unlink()
    assert "cannot read" in refusal(rec)
    (tmp_path / "a.rec").write_bytes(b"this is no record file, but some text")
    assert "no record begins at byte 0" in refusal(rec)
