"""engine/data/pickled_batch.py: every dialect is read, everything else refused, nothing run."""

import io
import os
import pickle
import pickletools
import random
import struct
import tracemalloc

import cifar_files
import numpy as np
import pytest

from engine.data import pickled_batch
from support.errors import InputError

IMAGES = cifar_files.random_images(6)
LABELS = [6, 9, 0, 4, 1, 9]
COARSE = [0, 19, 7, 7, 3, 1]
FINE = [4, 69, 14, 18, 28, 91]


def read(content, *keys):
    return pickled_batch.read_batch(content, "some/file", keys or ("labels",))


def refusal(content, *keys):
    with pytest.raises(InputError) as caught:
        read(content, *keys)
    message = str(caught.value)
    assert message.startswith("some/file, byte ") and "\n" not in message
    return message


def offset_of(content, opcode_name, nth=0):
    return [at for opcode, _, at in pickletools.genops(content) if opcode.name == opcode_name][nth]


# --- what is read ---


def test_python2_file():
    images, labels = read(cifar_files.python2(IMAGES, labels=LABELS))
    assert images.dtype == np.uint8 and images.shape == (6, 3072)
    np.testing.assert_array_equal(images, IMAGES.reshape(6, -1))
    np.testing.assert_array_equal(labels["labels"].values, LABELS)


def test_python2_helper_writes_what_pickle_reads():
    """The hand-written stream is a pickle like the official ones, not a private dialect of these tests."""
    batch = pickle.loads(cifar_files.python2(IMAGES, labels=LABELS), encoding="latin1")
    np.testing.assert_array_equal(batch["data"], IMAGES.reshape(6, -1))
    assert batch["labels"] == LABELS and batch["filenames"][5] == "picture_5.png"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("keys", [str, bytes])
@pytest.mark.parametrize("labels_as", [list, np.array, lambda v: np.array(v, ">i2"), lambda v: np.array(v, np.uint8)])
def test_python3_rewritings(protocol, keys, labels_as):
    content = cifar_files.python3(IMAGES, protocol, keys, labels_as, coarse_labels=COARSE, fine_labels=FINE)
    images, labels = read(content, "coarse_labels", "fine_labels")
    np.testing.assert_array_equal(images, IMAGES.reshape(6, -1))
    np.testing.assert_array_equal(labels["coarse_labels"].values, COARSE)
    np.testing.assert_array_equal(labels["fine_labels"].values, FINE)


@pytest.mark.parametrize("protocol", [2, 5])
def test_column_order_and_readonly_arrays(protocol):
    images = np.asfortranarray(IMAGES.reshape(6, -1))
    images.flags.writeable = False
    content = pickle.dumps({"data": images, "labels": LABELS}, protocol)
    np.testing.assert_array_equal(read(content)[0], images)


def test_numpy2_module_names():
    content = cifar_files.python2(IMAGES, labels=LABELS).replace(b"numpy.core.multi", b"numpy._core.multi")
    np.testing.assert_array_equal(read(content)[0], IMAGES.reshape(6, -1))


def test_label_offsets_point_at_the_labels():
    content = cifar_files.python2(IMAGES, labels=LABELS)
    _, labels = read(content)
    assert [content[at + 1] for at in labels["labels"].offsets] == LABELS


# --- what is refused ---


class _Caller:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_not_run(tmp_path, protocol):
    trap = tmp_path / "trap"
    content = pickle.dumps({"data": _Caller(os.system, f"touch {trap}"), "labels": LABELS}, protocol)
    message = refusal(content)
    assert "posix.system" in message and "nothing was run" in message
    name = "GLOBAL" if protocol == 2 else "STACK_GLOBAL"
    assert f"byte {offset_of(content, name)}:" in message
    assert not trap.exists()
    pickle.loads(content)
    assert trap.exists()  # it would have been


def test_known_names_cannot_be_combined_into_anything_else():
    content = pickle.dumps({"data": _Caller(np.dtype, "u1"), "labels": LABELS}, 2)
    assert "not built as CIFAR's" in refusal(content)


@pytest.mark.parametrize(
    "batch, reason",
    [
        ([1, 2], "not built as CIFAR's"),
        ({"labels": LABELS}, "not built as CIFAR's"),
        ({"data": IMAGES.reshape(6, -1)}, "not built as CIFAR's"),
        ({"data": IMAGES, "labels": LABELS}, "not one or two whole numbers"),
        ({"data": IMAGES.reshape(12, -1), "labels": LABELS}, "'data' must be uint8"),
        ({"data": IMAGES.reshape(6, -1).astype(np.int16), "labels": LABELS}, "'data' must be uint8"),
        ({"data": IMAGES.reshape(6, -1).astype(np.float32), "labels": LABELS}, "not whole numbers"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "'data' must be uint8"),
        ({"data": IMAGES.reshape(6, -1), "labels": LABELS[:5]}, "'labels' has the shape (5,) for 6 images"),
        ({"data": IMAGES.reshape(6, -1), "labels": [*LABELS[:5], "cat"]}, "is no class number"),
        ({"data": IMAGES.reshape(6, -1), "labels": [*LABELS[:5], True]}, "is no class number"),
        ({"data": IMAGES.reshape(6, -1), "labels": [*LABELS[:5], 1 << 70]}, "is no class number"),
        ({"data": IMAGES.reshape(6, -1), "labels": np.array([LABELS])}, "shape (1, 6) for 6 images"),
        ({"data": IMAGES.reshape(6, -1), 7: LABELS}, "not built as CIFAR's"),
        ({"data": IMAGES.reshape(6, -1), "labels": 1.5}, "BINFLOAT is not used"),
    ],
)
def test_wrong_contents(batch, reason):
    assert reason in refusal(pickle.dumps(batch, 4))


def test_offset_of_a_wrong_label():
    content = pickle.dumps({"data": IMAGES.reshape(6, -1), "labels": [*LABELS[:5], None]}, 2)
    assert f"byte {offset_of(content, 'NONE', -1)}:" in refusal(content)


def test_shape_that_does_not_fit():
    content = cifar_files.python2(IMAGES, labels=LABELS).replace(b"K\x06M\x00\x0c\x86", b"K\x07M\x00\x0c\x86")
    assert f"byte {offset_of(content, 'GLOBAL')}:" in refusal(content)


@pytest.mark.parametrize("cut", [0, 1, 2, 60, 1000, -1])
def test_cut_files(cut):
    content = cifar_files.python2(IMAGES, labels=LABELS)
    places = [at for _, _, at in pickletools.genops(content)]
    unreadable = max(at for at in places if at <= len(content[:cut]))
    assert f"byte {unreadable}: " in refusal(content[:cut])


def test_cut_in_the_pixels_names_their_opcode():
    content = cifar_files.python2(IMAGES, labels=LABELS)
    assert f"byte {offset_of(content, 'BINSTRING')}:" in refusal(content[:1000])


def test_bytes_after_the_end():
    content = cifar_files.python2(IMAGES, labels=LABELS)
    assert f"byte {len(content)}: 3 bytes after the end" in refusal(content + b"abc")


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"\x80\x02h\x05.", "not built as CIFAR's"),
        (b"\x80\x02\x85.", "not built as CIFAR's"),
        (b"\x80\x02e.", "not built as CIFAR's"),
        (b"\x80\x02u.", "not built as CIFAR's"),
        (b"\x80\x02}K\x01a.", "not built as CIFAR's"),
        (b"\x80\x02K\x01)R.", "not built as CIFAR's"),
        (b"\x80\x02}}b.", "not built as CIFAR's"),
        (b"\x80\x02K\x01Q.", "BINPERSID is not used"),
        (b"I" + b"9" * 5_000_000 + b"\n.", "byte 0: "),
        (b"V" + b"a" * 1000 + b"\n.", "byte 0: "),  # before it is decoded
        (b"\xff", "byte 0: "),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "byte 2: "),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.", "byte 2: "),
    ],
)
def test_hostile_opcodes(content, reason):
    assert reason in refusal(content)


def test_opcode_bombs_end_early():
    """A file of one-byte opcodes must not grow without bound, nor one text encoded over and over."""
    assert "more than" in refusal(b"\x80\x02" + b"]" * (pickled_batch.MAX_OPCODES + 1) + b".")
    text = b"a" * 100_000
    bomb = b"\x80\x02X" + struct.pack("<I", len(text)) + text + b"q\x00c_codecs\nencode\nq\x01"
    bomb += b"h\x01h\x00U\x06latin1\x86R" * 2000 + b"."
    tracemalloc.start()
    refusal(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(bomb)  # all 2,000 encoded would be 200 MB


def test_damaged_files_are_read_or_refused_never_more():
    """Random damage to real files ends in InputError or in a batch, with no other exception."""
    generator = random.Random(0)
    files = [cifar_files.python2(IMAGES[:2], labels=LABELS[:2])]
    files += [cifar_files.python3(IMAGES[:2], protocol, labels=LABELS[:2]) for protocol in (2, 3, 4, 5)]
    for _ in range(3000):
        content = bytearray(generator.choice(files))
        structure = [i for i in range(len(content)) if i < 300 or i > len(content) - 200]
        for _ in range(generator.randint(1, 4)):
            content[generator.choice(structure)] = generator.randrange(256)
        if generator.random() < 0.2:
            del content[generator.randrange(len(content)) :]
        try:
            images, labels = read(bytes(content))
        except InputError:
            continue
        assert images.shape[1] == 3072 and len(images) == len(labels["labels"].values)


def test_largest_file_is_within_the_bounds():
    """50,000 images (here without their pixels' variety) take no more opcodes than are allowed."""
    count = 50_000
    content = cifar_files.python3(
        np.zeros((count, 3072), np.uint8), 2, coarse_labels=[i % 20 for i in range(count)], fine_labels=[1] * count
    )
    opcodes = sum(1 for _ in pickletools.genops(io.BytesIO(content)))
    assert opcodes < pickled_batch.MAX_OPCODES / 2
    images, labels = read(content, "coarse_labels", "fine_labels")
    assert len(images) == count and labels["coarse_labels"].values[19] == 19
