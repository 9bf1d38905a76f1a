"""engine/data/images.py: image files to pixels, what counts as damaged, and the operations against plain NumPy."""
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import imagenet_files as files
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from engine.data import images
from engine.data.records import Damaged
from support.errors import InputError


@pytest.fixture(autouse=True)
def _opencv():
    images.require()


def full(height, width):
    return 0, 0, height, width


def damage(data):
    with pytest.raises(Damaged) as caught:
        images.decode(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def near(found, wanted, most):
    assert found.dtype == np.uint8 and found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < most


KINDS = {
    "jpeg": (files.jpeg(0), 3),
    "progressive": (files.jpeg(0, 40, 56, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 3),
    "restarts": (files.jpeg(0, 40, 56, cv2.IMWRITE_JPEG_RST_INTERVAL, 2), 3),
    "comment": (files.pillow_file("JPEG", quality=95, comment=b"\xff\xd9 no end"), 3),
    "cmyk": (files.pillow_file("JPEG", "CMYK", quality=95), 4),
    "png": (files.pillow_file("PNG"), .01),
    "png with opaque alpha": (files.pillow_file("PNG", "RGBA"), .01),
    "bmp": (files.pillow_file("BMP"), .01),
    "gif": (files.pillow_file("GIF"), 12),
    "palette": (files.pillow_file("PNG", "P"), 30),
    "tiff": (files.pillow_file("TIFF"), .01),
    "compressed tiff": (files.pillow_file("TIFF", compression="tiff_lzw"), .01),
    "cmyk tiff": (files.pillow_file("TIFF", "CMYK"), .01),
    "webp": (files.pillow_file("WEBP", lossless=True), .01),
    "ppm": (files.pillow_file("PPM"), .01),
    "ico": (files.pillow_file("ICO", sizes=[(56, 40)]), .01),
    "jpeg 2000": (files.pillow_file("JPEG2000"), .01),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_its_pixels(kind):
    data, most = KINDS[kind]
    near(images.decode(data), files.pixels(0), most)


def test_grey_images_become_three_equal_channels():
    found = images.decode(files.pillow_file("JPEG", "L", quality=95))
    assert found.shape == (40, 56, 3) and (found == found[:, :, :1]).all()


def test_every_format_that_is_read_is_tried():
    found = set()
    for data, _ in KINDS.values():
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
            found.add(image.format)
    assert found == set(images.FORMATS)


def saved(values, kind, **how):
    """An array as a file of Pillow's."""
    if kind == "PPM":  # of 16 bits, which not every Pillow writes
        return b"P5 %d %d 65535\n" % values.shape[::-1] + values.astype(">u2").tobytes()
    made = io.BytesIO()
    Image.fromarray(values).save(made, kind, **how)
    return made.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_of_sixteen_bits_of_grey_the_upper_eight_count(kind):
    values = np.random.RandomState(0).randint(0, 65536, (40, 56)).astype(np.uint16)
    found = images.decode(saved(values, kind))
    assert (found == (values >> 8)[:, :, None]).all()
    dark = images.decode(saved(values >> 8, kind))  # a dark picture stays dark
    assert dark.shape == (40, 56, 3) and not dark.any()


def tiff(values, photometric, bits=None, **more):
    """A TIFF of one channel, with tags that Pillow does not write."""
    height, width = values.shape
    content = values.tobytes()
    tags = {256: width, 257: height, 258: bits or 8 * values.itemsize, 262: photometric, 273: 0, 277: 1, 278: height,
            279: len(content), **{int(tag[1:]): value for tag, value in more.items()}}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + struct.pack("<I", 0) + content


def test_grey_of_twelve_bits_and_grey_whose_nought_is_white():
    values = np.random.RandomState(0).randint(0, 65536, (40, 56)).astype("<u2")
    assert (images.decode(tiff(~values, 0)) == (values >> 8)[:, :, None]).all()
    pairs = (values >> 4).reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    found = images.decode(tiff(packed.astype(np.uint8).reshape(40, 84), 1, 12).replace(
        struct.pack("<HHII", 256, 4, 1, 84), struct.pack("<HHII", 256, 4, 1, 56)))
    assert (found == (values >> 8)[:, :, None]).all()


@pytest.mark.parametrize("values", [np.ones((9, 9), np.float32), np.full((9, 9), 300, np.int32)])
def test_numbers_of_an_unknown_range_are_refused(values):
    assert "range of its numbers is not known" in damage(saved(values, "TIFF"))


def on_white(values, alpha):
    return np.rint((values[..., ::-1].astype(float) * alpha + 255. * (255 - alpha)) / 255)


@pytest.mark.parametrize("kind, how", [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True}),
                                       ("JPEG2000", {}), ("ICO", {"sizes": [(56, 40)]})])
def test_transparent_parts_show_white(kind, how):
    values = np.random.RandomState(1).randint(0, 256, (40, 56, 4)).astype(np.uint8)
    values[0, 0, 3], values[0, 1, 3] = 0, 255
    found = images.decode(saved(values, kind, **how))
    assert np.abs(found - on_white(values[..., :3], values[..., 3:])).max() <= 1
    assert (found[0, 0] == 255).all() and (found[0, 1] == values[0, 1, 2::-1]).all()


def png(width, height, depth, colour, rows, *chunks):
    """A PNG of these packed rows; chunks: (name, content) before the pixels."""
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    made = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *chunks, (b"IDAT", packed),
            (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in made)


# Depth, type of colour, a row of four pixels, the value of the transparent one, and what is shown.
KEYS = {
    "grey of 1 bit": (1, 0, b"\x50", (1,), (0, 255, 0, 255)),
    "grey of 2 bits": (2, 0, b"\x1b", (1,), (0, 255, 170, 255)),
    "grey of 4 bits": (4, 0, b"\x05\xaf", (5,), (0, 255, 170, 255)),
    "grey of 8 bits": (8, 0, b"\x00\x05\xaa\xff", (5,), (0, 255, 170, 255)),
    "grey of 16 bits": (16, 0, b"\x00\x00\x05\x05\x05\x06\xff\xff", (0x505,), (0, 255, 5, 255)),
    "colours of 8 bits": (8, 2, b"\0\0\0" b"\1\1\1" b"\1\1\1" b"\2\2\2", (1, 1, 1), (0, 255, 255, 2)),
    "colours of 16 bits": (16, 2, b"\0\0" * 3 + b"\1\0" * 3 + b"\1\0" * 3 + b"\2\0" * 3, (256,) * 3, (0, 255, 255, 2)),
}


@pytest.mark.parametrize("kind", KEYS)
def test_the_one_transparent_colour_of_a_png_shows_white(kind):
    depth, colour, row, key, shown = KEYS[kind]
    found = images.decode(png(4, 1, depth, colour, [row], (b"tRNS", struct.pack(f">{len(key)}H", *key))))
    assert found.tolist() == [[[value] * 3 for value in shown]]


def test_the_transparent_places_of_a_palette_show_white():
    palette = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), "P")
    palette.putpalette(bytes(range(12)))
    for kind, how in (("PNG", {"transparency": b"\xff\x00\xff\x80"}), ("GIF", {"transparency": 1})):
        made = io.BytesIO()
        palette.save(made, kind, **how)
        found = images.decode(made.getvalue())
        assert found[0, :3].tolist() == [[2, 1, 0], [255] * 3, [8, 7, 6]]
        assert abs(int(found[0, 3, 2]) - (132 if kind == "PNG" else 9)) <= 1


TURNED = {1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.swapaxes(0, 1),
          6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(x.swapaxes(0, 1), 2), 8: np.rot90}


@pytest.mark.parametrize("kind, how", [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True}),
                                       ("TIFF", {})])
def test_a_picture_is_turned_as_its_camera_says(kind, how):
    for orientation, turned in TURNED.items():
        exif = Image.Exif()
        exif[0x112] = orientation
        near(images.decode(files.pillow_file(kind, exif=exif, **how)), turned(files.pixels(0)), 3)
    grey = np.arange(6, dtype=np.uint16).reshape(2, 3) << 8
    exif[0x112] = 6
    assert (images.decode(saved(grey, "PNG", exif=exif))[:, :, 0] == np.rot90(grey >> 8, -1)).all()


def test_broken_exif_data_say_nothing():
    near(images.decode(files.pillow_file("PNG", exif=b"Exif\0\0no TIFF")), files.pixels(0), .01)


# What Pillow can read and we do not: formats whose plugins run programs, or fail in ways of their own.

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def test_postscript_is_not_run(tmp_path, monkeypatch):
    mark = tmp_path / "run"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # whether there is a Ghostscript is asked once
    assert "not an image that can be read (JPEG, PNG" in damage(POSTSCRIPT)
    assert not mark.exists()
    with pytest.raises(OSError), Image.open(io.BytesIO(POSTSCRIPT), formats=["EPS"]) as image:
        image.load()
    assert mark.exists()  # Pillow would


@pytest.mark.parametrize("kind", ["DDS", "BLP", "AVIF", "SPIDER", "TGA", "ICNS", "PDF"])
def test_a_format_that_is_not_listed_is_refused(kind):
    try:
        data = files.pillow_file(kind, {"BLP": "P", "SPIDER": "F"}.get(kind, "RGB"))
    except (KeyError, OSError):
        pytest.skip("this Pillow does not write it")
    assert "not an image that can be read" in damage(data)


def test_an_orientation_is_applied_at_every_size():
    exif = Image.Exif()
    exif[0x112] = 6  # stored lying on its side
    data = files.pillow_file("JPEG", quality=95, exif=exif)
    near(images.decode(data), np.rot90(files.pixels(0), -1), 3)
    assert images.crop(data, full, 10).shape == (56, 40, 3)


BROKEN = {
    "empty": (b"", "empty"),
    "zeros": (b"\0" * 500, "not an image"),
    "a page": (b"<html>404</html>", "not an image"),
    "two bytes": (b"\xff\xd8", "ends too early"),
    "no pixels": (b"\xff\xd8\xff\xd9", "no pixels"),
    "zeros behind the start": (b"\xff\xd8" + b"\0" * 500, "ends too early"),
    "half a png": (files.pillow_file("PNG")[:2000], "cannot be decoded"),
    "start of a png": (files.pillow_file("PNG")[:20], ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_image_is_damaged(kind):
    data, words = BROKEN[kind]
    assert words in damage(data)


def test_whatever_a_plugin_raises_is_damage(monkeypatch):
    def broken(*_):
        raise errors.pop()

    monkeypatch.setattr(Image.Image, "crop", broken)
    errors = [NotImplementedError("x\ny"), ZeroDivisionError(), RuntimeError(), struct.error(), OverflowError()]
    while errors:
        assert "it cannot be decoded (" in damage(files.pillow_file("PNG"))
    errors.append(MemoryError())
    with pytest.raises(MemoryError):  # says nothing of the file
        images.decode(files.pillow_file("PNG"))


def test_half_an_image_is_damaged_whatever_another_package_has_asked_of_pillow(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as GluonCV's import does
    assert "cannot be decoded" in damage(files.pillow_file("PNG")[:2000])


def test_a_jpeg_cut_anywhere_is_damaged():
    data = files.jpeg(1, 120, 160)
    for length in [*range(1, len(data), 97), len(data) - 1]:
        damage(data[:length])


def test_an_end_mark_in_a_thumbnail_is_not_the_end():
    data = files.jpeg(1, 120, 160)
    thumbnail = files.jpeg(2, 16, 16)
    segment = b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    near(images.decode(whole), files.pixels(1, 120, 160), 2)
    damage(whole[:len(whole) // 2])


def test_a_foreign_marker_among_the_pixels_is_damage():
    data = bytearray(files.jpeg(1, 120, 160))
    data[-300:-298] = b"\xff\xc1"
    assert "broken at byte" in damage(bytes(data))


def test_bytes_after_the_end_and_filling_before_a_marker_are_none():
    data = files.jpeg(1)
    near(images.decode(data + b"\0" * 100), files.pixels(1), 3)
    near(images.decode(data[:2] + b"\xff\xff" + data[2:]), files.pixels(1), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_more_pixels_than_are_read_are_refused_in_every_format(kind, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 40 * 56 - 1)
    assert "pixels" in damage(KINDS[kind][0])


def test_a_tile_larger_than_its_tiff_is_bounded_too():
    data = tiff(np.zeros((16, 16), np.uint8), 1, _322=40_000, _323=40_000)
    assert "40,000 x 40,000 pixels are more than are read of a TIFF" in damage(data)


def test_rows_that_a_tiff_does_not_have_are_damage():
    data = tiff(np.zeros((16, 16), np.uint8), 1)
    assert images.decode(data).shape == (16, 16, 3)
    rows = struct.pack("<HHI", 257, 4, 1)
    assert "no place for some of its pixels" in damage(data.replace(rows + b"\x10\0\0\0", rows + b"\0\0\1\0"))


def test_a_jpeg_that_goes_over_its_pixels_again_and_again_is_refused():
    data = files.jpeg(1, 40, 56, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = data.rindex(b"\xff\xda")
    images.decode(data)
    assert "more than 100 times" in damage(data[:-2] + 100 * data[last:-2] + data[-2:])


def test_only_regular_files_of_a_possible_size_are_read(tmp_path):
    (tmp_path / "image").write_bytes(files.jpeg(0))
    (tmp_path / "link").symlink_to(tmp_path / "image")
    assert images.read(tmp_path / "link") == files.jpeg(0)
    os.mkfifo(tmp_path / "pipe")  # that nobody writes to: reading it would wait for ever
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    for path, words in (("pipe", "no regular file"), ("/dev/zero", "no regular file"), (".", "Is a directory"),
                        ("none", "No such file"), ("loop", "symbolic links"), ("large", "bytes are more than are rea")):
        with pytest.raises(Damaged, match=words):
            images.read(tmp_path / path)


PEAKS = """
import os, resource, sys
from PIL import Image
from engine.data import images
images.require()
Image.init()
for path in sys.argv[1:]:
    images.decode(images.read(path.replace("/large/", "/small/")))  # loads what its format needs
for path in sys.argv[1:]:
    data = images.read(path)
    reader, writer = os.pipe()
    if not os.fork():
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = images.decode(data).nbytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun
        os.write(writer, f"{path} {peak * 1024 / size}\\n".encode())
        os._exit(0)
    os.close(writer)
    print(open(reader).read(), end="")
    os.wait()
"""


def test_a_picture_takes_a_few_times_the_memory_of_its_pixels_and_no_warning(tmp_path):
    values = np.zeros((2000, 2000, 4), np.uint8) + np.arange(2000, dtype=np.uint8)[:, None]
    made = {"png": ("PNG", values, {"compress_level": 1}),
            "sixteen": ("PNG", values[..., 0].astype(np.uint16), {"compress_level": 1}), "tiff": ("TIFF", values, {}),
            "webp": ("WEBP", values, {"method": 0}), "jp2": ("JPEG2000", values[..., :3].copy(), {}),
            "jpeg": ("JPEG", values[..., :3].copy(), {"progressive": True, "subsampling": 0, "quality": 95})}
    icon = saved(values[:64, :64], "ICO", sizes=[(64, 64)])
    for folder, side in (("large", 2000), ("small", 64)):
        (tmp_path / folder).mkdir()
        for name, (kind, array, how) in made.items():
            (tmp_path / folder / name).write_bytes(saved(array[:side, :side].copy(), kind, **how))
        # Of another size than its PNG: Pillow warns.
        (tmp_path / folder / "odd.ico").write_bytes(icon[:6] + b"\x20\x20" + icon[8:])
    done = subprocess.run([sys.executable, "-c", PEAKS, *sorted((tmp_path / "large").iterdir())], capture_output=True,
                          text=True, cwd=Path(images.__file__).parent.parent)
    assert done.returncode == 0 and not done.stderr, done.stderr
    peaks = {Path(path).name: float(peak) for path, peak in map(str.split, done.stdout.splitlines())}
    assert set(peaks) == {*made, "odd.ico"}
    for name, (kind, _, _) in made.items():  # of the most pixels that are read, so many times less of the hungry ones
        # 3.0 for a progressive JPEG with OpenCV 4.11, 4.4 with 4.13.
        assert peaks[name] < 5 * images.HUNGRY.get(kind, 1), peaks


def test_a_strip_is_not_resized_whole(monkeypatch):
    resize, sizes = images.resize, []

    def seen(pixels, height, width):
        sizes.append((height, width))
        return resize(pixels, height, width)

    monkeypatch.setattr(images, "resize", seen)
    strip = files.pixels(4, 3, 3001)
    found = images.centre(strip, 64, 56)
    whole = resize(strip, 64, 64 * 3001 // 3)
    near(found, whole[4:60, (whole.shape[1] - 56) // 2:][:, :56], 2)
    found = images.centre(np.swapaxes(strip, 0, 1).copy(), 64, 56)
    assert found.shape == (56, 56, 3)
    assert all(max(size) <= 64 * images.LONGEST_STRIP for size in sizes) and len(sizes) == 2


def test_a_size_beyond_all_bounds_is_refused_before_memory_is_asked_for():
    data = bytearray(files.jpeg(1))
    frame = data.index(b"\xff\xc0")
    data[frame + 5:frame + 9] = b"\xff\xff\xff\xff"
    assert "pixels are more" in damage(bytes(data))


@pytest.mark.parametrize("extent, factor", [((160, 240), 2), ((320, 480), 4), ((640, 960), 8), ((79, 120), 1)])
def test_a_large_part_is_decoded_smaller_and_shows_the_same(extent, factor):
    height, width = extent
    data = files.jpeg(3, height + 40, width + 40)
    found = images.crop(data, lambda *_: (16, 24, height, width), 80)
    assert found.shape[:2] == (height // factor, width // factor)
    whole = images.decode(data)[16:16 + height, 24:24 + width]
    small = cv2.resize(whole, (100, 80), interpolation=cv2.INTER_AREA)
    near(images.resize(found, 80, 100), small, 2)


def test_the_centre_is_cut_like_the_iterators():
    for height, width in ((50, 70), (70, 50), (64, 64), (33, 200)):
        pixels = files.pixels(4, height, width)
        found = images.centre(pixels, 32, 28)
        new = (32 * height // width, 32) if height > width else (32, 32 * width // height)
        resized = cv2.resize(pixels, new[::-1])
        y, x = (new[0] - 28) // 2, (new[1] - 28) // 2
        np.testing.assert_array_equal(found, resized[y:y + 28, x:x + 28])


def test_jitter_is_what_it_says():
    weights = np.array([.114, .587, .299])  # blue first
    pixels = files.pixels(5)

    def rounded(values):
        return np.clip(np.rint(values), 0, 255)

    for order in images.ORDERS:
        factors = np.array([1.3, .7, 1.35])
        wanted = pixels.astype(float)
        for which in order:
            grey = rounded((wanted * weights).sum(axis=2, keepdims=True))
            other = (0, grey.mean(), grey)[which]
            wanted = rounded(factors[which] * wanted + (1 - factors[which]) * other)
        found = images.jitter(pixels, factors, order)
        assert found.dtype == np.uint8 and np.abs(found - wanted).max() <= 4 and np.abs(found - wanted).mean() < .5
    assert (images.jitter(pixels, np.ones(3), (0, 1, 2)) == pixels).all()


def test_planes_are_red_first_and_scaled():
    pixels = files.pixels(6)
    out = np.empty((3, 40, 56), np.float32)
    images.planes(pixels, np.array([1, 2, 3]), np.array([.5, 0, -1]), out)
    for channel, (scale, shift) in enumerate(((1, .5), (2, 0), (3, -1))):
        np.testing.assert_allclose(out[channel], scale * pixels[:, :, 2 - channel].astype(float) + shift)
    np.testing.assert_array_equal(images.mirror(pixels), pixels[:, ::-1])


def test_without_opencv_it_is_said_when_images_are_needed(monkeypatch):
    monkeypatch.setattr(images, "cv2", None)
    monkeypatch.setattr(images, "_missing", ImportError("libGL.so.1"), raising=False)
    monkeypatch.setattr(images.system, "check_opencv", lambda: None)
    with pytest.raises(InputError, match="OpenCV cannot be imported"):
        images.require()
    assert (images.decode(files.jpeg(0)) == cv2.imdecode(np.frombuffer(files.jpeg(0), np.uint8), 1)).all()
