"""Writes small CIFAR files in every official form, for the tests."""

import io
import lzma
import pickle
import struct
import tarfile

import numpy as np

CIFAR10_TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def random_images(count, seed=0):
    """uint8 (count, 3, 32, 32)."""
    return np.random.RandomState(seed).randint(0, 256, (count, 3, 32, 32)).astype(np.uint8)


def binary(images, *labels):
    """The bytes of a binary file: per image its label bytes, then 3,072 pixel bytes."""
    columns = [np.asarray(column, np.uint8)[:, None] for column in labels]
    return np.concatenate([*columns, images.reshape(len(images), -1)], axis=1).tobytes()


def python3(images, protocol, keys=str, labels_as=list, **labels):
    """The bytes of a python file as Python 3 writes it; labels: labels=[...] or coarse_labels=..., fine_labels=..."""
    batch = {
        "batch_label": "testing batch 1 of 1",
        "data": images.reshape(len(images), -1),
        "filenames": [f"picture_{number}.png" for number in range(len(images))],
    }
    batch.update({key: labels_as(values) for key, values in labels.items()})
    if keys is bytes:
        batch = {key.encode(): value for key, value in batch.items()}
    return pickle.dumps(batch, protocol)


def python2(images, **labels):
    """The bytes of a python file as Python 2 with protocol 2 writes it, the form of the official ones."""
    pixels = images.tobytes()
    stream = io.BytesIO()
    put = stream.write

    def text(value):
        value = value.encode("latin-1")
        put(b"U" + bytes([len(value)]) + value)

    def number(value):
        put(b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value))

    put(b"\x80\x02}q\x01(")
    text("batch_label")
    put(b"q\x02")
    text("training batch 1 of 5")
    put(b"q\x03")
    for key, values in labels.items():
        text(key)
        put(b"]q\x05(")
        for value in values:
            number(value)
        put(b"e")
    text("data")
    put(b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01")
    number(len(images))
    number(3072)
    put(b"\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    put(b"\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tb")
    text("filenames")
    put(b"]q\x0c(")
    for index in range(len(images)):
        text(f"picture_{index}.png")
        put(b"q" + bytes([20 + index]))
    put(b"eu.")
    return stream.getvalue()


def archive(path, members):
    """A tar.gz of {name: bytes} or of (TarInfo, bytes or None) pairs."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members.items() if isinstance(members, dict) else members:
            info, content = member
            if not isinstance(info, tarfile.TarInfo):
                info = tarfile.TarInfo(info)
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if content is not None else None)
    return path


def cifar10_folder(folder, train=(40,), test=20, compressed=False):
    """Binary CIFAR-10 files with `train` images per training file; returns {file name: (images, labels)}."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    counts = [*zip(CIFAR10_TRAIN, train), ("test_batch", test)]
    for seed, (name, count) in enumerate(counts):
        images, labels = random_images(count, seed), [(3 * i + seed) % 10 for i in range(count)]
        content = binary(images, labels)
        if compressed:
            (folder / f"{name}.bin.xz").write_bytes(lzma.compress(content))
        else:
            (folder / f"{name}.bin").write_bytes(content)
        written[f"{name}.bin"] = images, np.array(labels)
    return written
