"""engine/images.py: image files to pixels, what counts as damaged, and the operations against plain NumPy."""
import cv2
import imagenet_files as files
import numpy as np
import pytest

from engine import images
from engine.records import Damaged
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
    "png with alpha": (files.pillow_file("PNG", "RGBA"), .01),
    "bmp": (files.pillow_file("BMP"), .01),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_its_pixels(kind):
    data, most = KINDS[kind]
    near(images.decode(data), files.pixels(0), most)


def test_grey_images_become_three_equal_channels():
    found = images.decode(files.pillow_file("JPEG", "L", quality=95))
    assert found.shape == (40, 56, 3) and (found == found[:, :, :1]).all()


def test_an_orientation_is_applied_at_every_size():
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6  # stored lying on its side
    data = files.pillow_file("JPEG", quality=95, exif=exif)
    near(images.decode(data), np.rot90(files.pixels(0), -1), 3)
    found, box = images.crop(data, full, 10)
    assert found.shape == (56, 40, 3) and box == (0, 0, 56, 40)


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


def test_half_an_image_is_damaged_whatever_another_package_has_asked_of_pillow(monkeypatch):
    from PIL import ImageFile

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


def test_a_size_beyond_all_bounds_is_refused_before_memory_is_asked_for():
    data = bytearray(files.jpeg(1))
    frame = data.index(b"\xff\xc0")
    data[frame + 5:frame + 9] = b"\xff\xff\xff\xff"
    assert "pixels are more" in damage(bytes(data))


@pytest.mark.parametrize("extent, factor", [((160, 240), 2), ((320, 480), 4), ((640, 960), 8), ((79, 120), 1)])
def test_a_large_part_is_decoded_smaller_and_shows_the_same(extent, factor):
    height, width = extent
    data = files.jpeg(3, height + 40, width + 40)
    found, box = images.crop(data, lambda *_: (16, 24, height, width), 80)
    assert box == (16, 24, height, width) and found.shape[:2] == (height // factor, width // factor)
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
    monkeypatch.setattr(images.runtime, "check_opencv", lambda: None)
    with pytest.raises(InputError, match="OpenCV cannot be imported"):
        images.require()
