"""Parameter files: what MXNet and we write and read, and that no damage passes unseen or crashes the reader."""
import io
import os
import resource
import struct
import zipfile

import mxnet as mx
import numpy as np
import pytest

from support import params_file
from support.errors import InputError

DTYPES = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"]
CODE = {name: code for code, name in enumerate(["float32", "float64", "float16", "uint8", "int32", "int8", "int64",
                                                "bool"])}  # MXNet's own numbering
V2, NUMPY = 0xF993FAC9, 0xF993FACA


def numbers(shape, dtype, seed=0):
    return np.random.RandomState(seed).uniform(0, 100, shape).astype(dtype)


def small(path, attachments=None):
    """A small file of ours at path; returns its bytes."""
    params_file.write(path, {"a.weight": np.array([[1.5, -2, 3]], "float32"), "b": np.array([4], "int32")},
                      {"settings.json": b'{"blocks": 1}', "state": b"\x00\x01\x02"} if attachments is None
                      else attachments)
    return path.read_bytes()


def header(arrays, names, first=0x112, second=0, count=None, named=None):
    """A file put together from parts, with the two counts as they are claimed to be."""
    return struct.pack("<QQQ", first, second, len(arrays) if count is None else count) + b"".join(arrays) \
        + struct.pack("<Q", len(names) if named is None else named) \
        + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def array(shape=(2,), code=0, data=None, magic=V2, storage=0, axes=None):
    data = b"\0" * 8 if data is None else data
    return struct.pack(f"<Iii{len(shape)}qiii", magic, storage, len(shape) if axes is None else axes, *shape,
                       1, 0, code) + data


def refused(path, content, said=None):
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        params_file.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a usable parameter file: ") and "\n" not in message
    assert f"of {len(content):,}" in message
    return message


# Reading what MXNet writes.

@pytest.mark.parametrize("dtype", DTYPES)
def test_what_mxnet_saves_is_read(tmp_path, dtype):
    for shape in ((1,), (7,), (2, 3), (1, 1, 1, 1), (3, 1, 5, 2), (2, 1, 2, 1, 2, 1)):
        value = numbers(shape, dtype)
        mx.nd.save(str(tmp_path / "x"), {"one": mx.nd.array(value, dtype=dtype), "two.three": mx.nd.ones((2,))})
        arrays, attachments = params_file.read(tmp_path / "x")
        assert list(arrays) == ["one", "two.three"] and attachments == {}
        assert arrays["one"].dtype == value.dtype and arrays["one"].shape == shape
        np.testing.assert_array_equal(arrays["one"], value)


def test_scalars_and_arrays_without_numbers_are_read(tmp_path):
    with mx.util.np_shape(True), mx.util.np_array(True):
        mx.npx.save(str(tmp_path / "x"), {"scalar": mx.np.array(3.5), "none": mx.np.zeros((0, 3)),
                                          "after": mx.np.array([1.0, 2.0])})
    arrays, _ = params_file.read(tmp_path / "x")
    assert {name: value.tolist() for name, value in arrays.items()} == {"scalar": 3.5, "none": [], "after": [1, 2]}
    assert arrays["none"].shape == (0, 3) and arrays["scalar"].shape == ()


def test_a_file_without_arrays_is_read(tmp_path):
    mx.nd.save(str(tmp_path / "x"), {})
    assert params_file.read(str(tmp_path / "x")) == ({}, {})


def test_names_may_be_any_text(tmp_path):
    names = ["", " ", "größe", "a" * 1000, "arg:x", "'", "\n"]
    mx.nd.save(str(tmp_path / "x"), {name: mx.nd.array([index]) for index, name in enumerate(names)})
    assert {name: value.item() for name, value in params_file.read(tmp_path / "x")[0].items()} \
        == {name: index for index, name in enumerate(names)}


def test_what_is_read_cannot_be_changed_by_mistake(tmp_path):
    small(tmp_path / "x")
    arrays, _ = params_file.read(tmp_path / "x")
    with pytest.raises(ValueError, match="read-only"):
        arrays["b"][0] = 1


def test_a_list_of_unnamed_arrays_is_refused(tmp_path):
    mx.nd.save(str(tmp_path / "x"), [mx.nd.ones((2,)), mx.nd.ones((3,))])
    with pytest.raises(InputError, match="0 names for 2 arrays"):
        params_file.read(tmp_path / "x")


def test_a_sparse_array_is_refused(tmp_path):
    mx.nd.save(str(tmp_path / "x"), {"a": mx.nd.ones((2, 2)).tostype("row_sparse")})
    with pytest.raises(InputError, match="sparse"):
        params_file.read(tmp_path / "x")


@pytest.mark.parametrize("path", ["absent", "."])
def test_what_cannot_be_opened_is_a_sentence(tmp_path, path):
    with pytest.raises(InputError, match="cannot be read: .*; check the path"):
        params_file.read(tmp_path / path)


# Hostile files. The headers claim what is not there; nothing may be allocated for a claim.

@pytest.mark.parametrize("content, said", [
    (b"", "does not start with MXNet's mark"),
    (b"PK\x03\x04" + b"\0" * 60, "it is not sound"),
    (header([], [], first=0x113), "does not start with MXNet's mark"),
    (header([], [], count=2 ** 63), "claims 9223372036854775808 arrays"),
    (header([array()], [b"a"], count=2), "array 1"),
    (header([array()], [b"a"], count=0), "names for 0 arrays"),
    (header([array()], [b"a"], named=0), "0 names for 1 arrays"),
    (header([array()], [b"a"], named=2 ** 64 - 1), "18446744073709551615 names for 1 arrays"),
    (header([array(magic=0xF993FAC8)], [b"a"]), "does not start with an array's mark"),
    (header([array(storage=1)], [b"a"]), "sparse"),
    (header([array(storage=-1)], [b"a"]), "sparse"),
    (header([array(axes=-1)], [b"a"]), "claims -1 axes"),
    (header([array(axes=-1, magic=NUMPY)], [b"a"]), "claims -1 axes"),
    (header([array(axes=2 ** 31 - 1)], [b"a"]), "claims 2147483647 axes"),
    (header([array((1,) * 33)], [b"a"]), "claims 33 axes"),
    (header([array(())], [b"a"]), "array 0 is empty"),
    (header([array((-2,))], [b"a"]), r"claims the shape \(-2,\)"),
    (header([array((-1, -2))], [b"a"]), "claims the shape"),
    (header([array((2 ** 62,))], [b"a"]), "ends within array 0"),
    (header([array((2 ** 62, 2 ** 62))], [b"a"]), "ends within array 0"),
    (header([array((2 ** 32, 2 ** 32))], [b"a"]), "ends within array 0"),  # 2**64 is 0 to a careless reader
    (header([array((0, 2 ** 62), data=b"")], [b"a"]), "claims the shape"),
    (header([array((0, 2 ** 62, 2 ** 62), data=b"")], [b"a"]), "claims the shape"),
    (header([array(code=8)], [b"a"]), "unknown type code 8"),
    (header([array(code=-1)], [b"a"]), "unknown type code -1"),
    (header([array(code=12)], [b"a"]), "unknown type code 12"),
    (header([array(), array()], [b"a", b"a"]), "the name 'a' occurs twice"),
    (header([array()], [b"\xff\xfe"]), "a name is not text"),
    (header([array()], [], named=1) + struct.pack("<Q", 2 ** 63), "ends within a name"),
    (header([array()], [b"a"]) + b"\0", "not a sound archive"),
    (header([array()], [b"a"]) + b"junk" * 100, "not a sound archive"),
    (header([array()], [b"a"]) * 2, "not a sound archive"),
])
def test_hostile_files_are_refused(tmp_path, content, said):
    refused(tmp_path / "x", content, said)


def test_the_files_put_together_here_are_sound_but_for_their_flaw(tmp_path):
    """Else the cases above could be refused for another reason."""
    (tmp_path / "x").write_bytes(header([array((2, 1)), array(magic=NUMPY), array((), data=b"\0" * 4, magic=NUMPY)],
                                        [b"a", b"b", b"c"]))
    assert {name: value.shape for name, value in params_file.read(tmp_path / "x")[0].items()} \
        == {"a": (2, 1), "b": (2,), "c": ()}
    (tmp_path / "x").write_bytes(header([array((2, 1)), array()], [b"a", b"b"]))
    assert set(mx.nd.load(str(tmp_path / "x"))) == {"a", "b"}


def zipped(members, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


@pytest.mark.parametrize("archive, said", [
    (zipped([("settings.json", b"{}")]), "do not match the checksum"),
    (zipped([("weights.sha256", b"0" * 64)]), "do not match the checksum"),
    (zipped([("weights.sha256", b"\xff" * 64)]), "do not match the checksum"),
    (zipped([]), "not one that this project writes"),
    (zipped([("bomb", b"\0" * 10 ** 6)], zipfile.ZIP_DEFLATED), "not one that this project writes"),
    (b"junk" + zipped([("weights.sha256", b"0" * 64)]), "not one that this project writes"),
    (zipped([("weights.sha256", b"0" * 64)]) + b"junk", "not a sound archive|not one that this project writes"),
])
def test_archives_that_we_do_not_write_are_refused(tmp_path, archive, said):
    refused(tmp_path / "x", header([array()], [b"a"]) + archive, said)


# Damage.

def test_every_truncation_of_a_file_of_mxnets_is_refused(tmp_path):
    mx.nd.save(str(tmp_path / "x"), {"a.weight": mx.nd.array([[1.5, -2, 3]]), "b": mx.nd.array([4], dtype="int32")})
    content = (tmp_path / "x").read_bytes()
    for length in range(len(content)):
        refused(tmp_path / "x", content[:length])


def test_every_truncation_of_a_file_of_ours_is_refused_but_the_one_that_leaves_mxnets_part_whole(tmp_path):
    content = small(tmp_path / "x")
    start = content.index(b"PK\x03\x04")
    for length in range(len(content)):
        if length == start:
            (tmp_path / "x").write_bytes(content[:length])
            arrays, attachments = params_file.read(tmp_path / "x")
            assert arrays["a.weight"].tolist() == [[1.5, -2, 3]] and attachments == {}
        else:
            refused(tmp_path / "x", content[:length])


def flips(content):
    """Every file that differs from content in one bit, with the place of that bit's byte."""
    damaged = bytearray(content)
    for place in range(len(content)):
        for bit in range(8):
            damaged[place] ^= 1 << bit
            yield place, bytes(damaged)
            damaged[place] ^= 1 << bit


@pytest.mark.parametrize("attachments", [None, {"eighteen-letters.x": b"12"}])
def test_no_flipped_bit_in_a_file_of_ours_changes_what_is_read(tmp_path, attachments):
    """Each is refused; only in a few fields of the archive that carry nothing (a date, a version) may one pass."""
    content = small(tmp_path / "x", attachments)
    start = content.index(b"PK\x03\x04")
    arrays, attached = params_file.read(tmp_path / "x")
    passed = 0
    for place, damaged in flips(content):
        (tmp_path / "x").write_bytes(damaged)
        try:
            found, found_attached = params_file.read(tmp_path / "x")
        except InputError:
            continue
        passed += 1
        assert place >= start
        assert found_attached == attached, place
        assert found.keys() == arrays.keys() and all((found[name] == arrays[name]).all() for name in arrays)
    assert passed < 0.25 * 8 * len(content)


def test_a_flipped_bit_in_a_file_of_mxnets_is_refused_or_read_and_never_a_crash(tmp_path):
    mx.nd.save(str(tmp_path / "x"), {"a.weight": mx.nd.array([[1.5, -2, 3]]), "b": mx.nd.array([4], dtype="int32")})
    refusals = 0
    for _, damaged in flips((tmp_path / "x").read_bytes()):
        (tmp_path / "x").write_bytes(damaged)
        try:
            arrays, attachments = params_file.read(tmp_path / "x")
            assert len(arrays) == 2 and attachments == {}
        except InputError:
            refusals += 1
    assert refusals > 500


def test_random_bytes_behind_a_true_beginning_never_crash(tmp_path):
    content = small(tmp_path / "x")
    generator = np.random.RandomState(0)
    for _ in range(300):
        kept = generator.randint(0, len(content))
        (tmp_path / "x").write_bytes(content[:kept] + generator.bytes(generator.randint(1, 200)))
        with pytest.raises(InputError):
            params_file.read(tmp_path / "x")


# Writing.

@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_is_read_again_by_us_and_by_mxnet(tmp_path, dtype):
    values = {str(shape): numbers(shape, dtype, seed) for seed, shape in
              enumerate([(1,), (5,), (2, 3), (4, 1, 3, 3), (1, 2, 1, 2, 1)])}
    params_file.write(tmp_path / "x", {name: np.array(value, dtype) for name, value in values.items()},
                      {"settings.json": b"{}", "empty": b"", "binary": bytes(range(256)) * 50})
    arrays, attachments = params_file.read(tmp_path / "x")
    by_mxnet = mx.nd.load(str(tmp_path / "x"))
    assert list(arrays) == list(values) and set(by_mxnet) == set(values)
    for name, value in values.items():
        assert arrays[name].dtype == by_mxnet[name].dtype == value.dtype
        np.testing.assert_array_equal(arrays[name], value)
        np.testing.assert_array_equal(by_mxnet[name].asnumpy(), value)
    del attachments["weights.sha256"]
    assert attachments == {"settings.json": b"{}", "empty": b"", "binary": bytes(range(256)) * 50}


def test_an_ordinary_unzip_lists_the_attachments(tmp_path):
    small(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["weights.sha256", "settings.json", "state"]
        assert archive.read("settings.json") == b'{"blocks": 1}'


def test_a_file_without_arrays_or_attachments_can_be_written(tmp_path):
    params_file.write(tmp_path / "x", {}, {})
    arrays, attachments = params_file.read(tmp_path / "x")
    assert arrays == {} and list(attachments) == ["weights.sha256"]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    assert small(tmp_path / "x") == small(tmp_path / "y")
    assert sorted(os.listdir(tmp_path)) == ["x", "y"]


@pytest.mark.parametrize("place", ["absent/x", "file/x", "folder"])
def test_where_nothing_can_be_written_is_a_sentence(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("")
    with pytest.raises(InputError) as caught:
        params_file.write(tmp_path / place, {"a": np.ones(2, "float32")}, {})
    assert str(caught.value).startswith(f"{tmp_path / place} cannot be written: ")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == ["kept"]


@pytest.mark.parametrize("limit", [0, 100, 5000, 40000, 60500])
def test_a_full_disk_leaves_the_old_file(tmp_path, limit):
    """A limit on the size of files stands for the disk: writing ends in the weights or in the archive."""
    old = small(tmp_path / "x")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(InputError, match="cannot be written: .*; free space or choose another folder"):
            params_file.write(tmp_path / "x", {"a": np.ones(10000, "float32")}, {"state": b"0" * 21000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "x").read_bytes() == old
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"])
def test_the_weights_are_written_as_mxnet_writes_them(tmp_path, dtype):
    arrays = {"a.weight": mx.nd.array([[[1, 0, 3]]], dtype=dtype), "b": mx.nd.array([[2], [3]], dtype=dtype),
              "\u00fc": mx.nd.array([0], dtype=dtype)}
    mx.nd.save(str(tmp_path / "theirs"), arrays)
    params_file.write(tmp_path / "ours", {name: array.asnumpy() for name, array in arrays.items()}, {})
    theirs = (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "ours").read_bytes().startswith(theirs + b"PK") and len(theirs) > 100


def test_a_name_that_is_no_utf_8_is_a_name_all_the_same(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff.params")
    params_file.write(os.fsdecode(path), {"a": np.ones(2, "float32")}, {"state": b"0"})
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff.params"]
    arrays, attachments = params_file.read(os.fsdecode(path))
    assert arrays["a"].tolist() == [1, 1] and attachments["state"] == b"0"


def test_any_other_failure_leaves_the_old_file_too(tmp_path, monkeypatch):
    old = small(tmp_path / "x")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        params_file.write(tmp_path / "x", {"a": np.ones(2, "float32")}, {})
    assert (tmp_path / "x").read_bytes() == old
    assert os.listdir(tmp_path) == ["x"]
