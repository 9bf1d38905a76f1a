"""Small photographs of nothing, in the layouts in which ImageNet may lie."""
import io
import tarfile

import cv2
import mxnet as mx
import numpy as np

CLASSES = ("n01440764", "n01443537", "n01484850")  # the first official ones


def pixels(seed, height=40, width=56):
    """A smooth colour image, uint8 (height, width, 3), which JPEG changes little."""
    coarse = np.random.RandomState(seed).randint(0, 256, (5, 7, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(seed, height=40, width=56, *parameters):
    return cv2.imencode(".jpg", pixels(seed, height, width), [cv2.IMWRITE_JPEG_QUALITY, 95, *parameters])[1].tobytes()


def pillow_file(kind, mode="RGB", seed=0, **how):
    """An image file as Pillow writes it, such as a CMYK JPEG."""
    from PIL import Image

    made = io.BytesIO()
    Image.fromarray(pixels(seed)[:, :, ::-1]).convert(mode).save(made, kind, **how)
    return made.getvalue()


def folder(root, per_class=(4, 3, 5), classes=CLASSES, seed=0):
    """Class folders under root; returns {CLASS/NAME: content}."""
    written = {}
    for name, count in zip(classes, per_class):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            # Sizes and shapes differ, as ImageNet's do.
            written[f"{name}/{name}_{number}.JPEG"] = content = jpeg(seed, 36 + seed % 9, 36 + 5 * seed % 30)
            (root / f"{name}/{name}_{number}.JPEG").write_bytes(content)
    return written


def record_file(path, contents, labels=None, keys=None):
    """path.rec and path.idx of these image files, by MXNet's own writer; returns the path of the .rec."""
    record = mx.recordio.MXIndexedRecordIO(f"{path}.idx", f"{path}.rec", "w")
    for number, content in enumerate(contents):
        label = labels[number] if labels is not None else number % 3
        header = mx.recordio.IRHeader(0, label, number, 0)
        record.write_idx(keys[number] if keys else number, mx.recordio.pack(header, content))
    record.close()
    return path.with_name(path.name + ".rec")


def tar(path, files, mode="w:"):
    """A tar archive of {name: content}."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def train_archive(path, written):
    """The archive of class archives of what `folder` has returned."""
    inner = {}
    for name in sorted({file.split("/")[0] for file in written}):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:") as archive:
            for file, data in written.items():
                if file.startswith(name):
                    member = tarfile.TarInfo(file.split("/")[1])
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        inner[f"{name}.tar"] = content.getvalue()
    return tar(path, inner)
