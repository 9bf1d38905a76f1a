"""Image files to pixels: decoded, cropped, resized and jittered, as uint8 arrays (height, width, 3), blue first.

The operations are OpenCV's, which MXNet's own record iterator is built on: decoded at full size, resized bilinearly
and cropped, the pixels are the iterator's to the bit (an image's EXIF orientation is applied, as it does). OpenCV
runs single-threaded; callers have threads of their own, and both decoding and resizing release Python's lock.
"""
import io
import itertools
import re
from typing import Callable, NamedTuple, Optional, Tuple

import numpy as np

from engine.records import Damaged
from support import runtime
from support.errors import InputError

try:
    import cv2
except ImportError as error:  # said by require(), when images are to be read
    cv2, _missing = None, error

MAX_PIXELS = 1 << 27  # twice the largest image of ImageNet; a crafted file asks for what it likes
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")  # that Pillow may try

# A marker of a JPEG: FF and a code. In compressed pixels FF 00 stands for the byte FF, and D0 to D7 may come anywhere.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, 0xD8))
# What may follow compressed pixels: tables, another scan, a comment, application data, the end.
_BETWEEN = frozenset((0xC4, _END, _SCAN, 0xDB, 0xDC, 0xDD, 0xFE)) | frozenset(range(0xE0, 0xF0))

Box = Tuple[int, int, int, int]  # y, x, height, width

ORDERS = tuple(itertools.permutations(range(3)))


def require() -> None:
    """Prepare OpenCV in this process; InputError where it cannot be imported."""
    if cv2 is None:
        raise InputError(runtime.check_opencv() or f"OpenCV cannot be imported ({_missing}): {runtime.USE_VENV}")
    cv2.setNumThreads(0)


class Jpeg(NamedTuple):
    """What the markers of a JPEG tell: its size in pixels, and whether it has EXIF data."""

    height: int
    width: int
    exif: bool


def read_markers(data: bytes) -> Jpeg:
    """Walk through a JPEG from marker to marker. Raises Damaged where they make no image."""
    position, scanned, size, exif = 2, False, None, False
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            break
        code, after = data[found.end() - 1], found.end()
        if code == _END:
            if not scanned:
                raise Damaged("the JPEG has no pixels")
            return Jpeg(*size, exif)
        if scanned and code not in _BETWEEN:
            raise Damaged(f"the JPEG's compressed pixels are broken at byte {found.start():,}")
        if code in _ALONE:
            position = after
            continue
        length = int.from_bytes(data[after:after + 2], "big")
        position = after + length
        if length < 2 or position > len(data):
            raise Damaged(f"the JPEG's header is broken at byte {found.start():,}" if not scanned else
                          f"the JPEG ends too early, after {len(data):,} bytes")
        if code in _FRAMES:
            if length < 8:
                raise Damaged(f"the JPEG's header is broken at byte {found.start():,}")
            size = (int.from_bytes(data[after + 3:after + 5], "big"), int.from_bytes(data[after + 5:after + 7], "big"))
            if size[0] * size[1] > MAX_PIXELS:
                raise Damaged(f"{size[1]:,} x {size[0]:,} pixels are more than are read")
        elif code == _SCAN:
            if size is None:
                raise Damaged("the JPEG has pixels before their size")
            scanned = True
        elif code == _APP1:
            exif = exif or data.startswith(b"Exif", after + 2)
    raise Damaged(f"the JPEG ends too early, after {len(data):,} bytes")


def check(data: bytes) -> Optional[Jpeg]:
    """Damaged unless these bytes are an image file that is there to its end; a JPEG's markers, else None.

    OpenCV fills what is missing of a JPEG with grey and says nothing, hence the walk; Pillow refuses by itself. Pixels
    that were overwritten and are still legal code cannot be told from others; a checksum of the file can.
    """
    if not data:
        raise Damaged("the file is empty")
    if not data.startswith(b"\xff\xd8"):
        _pillow(data)
        return None
    return read_markers(data)


def decode(data: bytes) -> np.ndarray:
    """The pixels of an image file, uint8 (height, width, 3), blue first. Raises Damaged."""
    return crop(data, lambda height, width: (0, 0, height, width))[0]


def crop(data: bytes, choose: Callable[[int, int], Box], side: Optional[int] = None) -> Tuple[np.ndarray, Box]:
    """The part of an image file that choose(height, width) names, and that box.

    side: pixels that the part is to become, each way. A JPEG whose part has at least twice, four or eight times as
    many is decoded at half, a quarter or an eighth of its size, which takes less time and averages where bilinear
    resizing would skip. None: full size always.
    """
    markers = check(data)
    if markers is None:
        pixels = _pillow(data)
        return _cut(pixels, choose(*pixels.shape[:2]))
    # An EXIF orientation may turn the image, so its size is known only with its pixels.
    if side is None or markers.exif or min(markers.height, markers.width) < 2 * side:
        pixels = _opencv(data, 1)
        return _cut(pixels, choose(*pixels.shape[:2]))
    box = choose(markers.height, markers.width)
    factor = max((factor for factor in (2, 4, 8) if min(box[2:]) >= factor * side), default=1)
    pixels = _opencv(data, factor)
    y, x = (start // factor for start in box[:2])
    height, width = (max(1, extent // factor) for extent in box[2:])
    return pixels[y:y + height, x:x + width], box


def _cut(pixels, box):
    y, x, height, width = box
    return pixels[y:y + height, x:x + width], box


def _opencv(data, factor):
    flag = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8}[factor]
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise Damaged(f"it cannot be decoded ({error.err})") from None
    if pixels is None:
        if factor > 1:
            raise Damaged("it cannot be decoded")
        return _pillow(data)
    return pixels


def _pillow(data):
    """An image decoded by Pillow, which refuses a file with missing pixels."""
    from PIL import Image, ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = False  # GluonCV's import switches it on, for the whole process

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Damaged(f"{image.width:,} x {image.height:,} pixels are more than are read")
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    except Image.UnidentifiedImageError:
        raise Damaged("it is not an image") from None
    except Damaged:
        raise
    # Pillow's plugins raise all of these for broken files.
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, Image.DecompressionBombError) as error:
        raise Damaged(f"it cannot be decoded ({' '.join(str(error).split())[:100]})") from None


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, without smoothing first, as MXNet's iterator and transforms do it: (..., 3) -> (height, width, 3)."""
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)


def centre(pixels: np.ndarray, shorter: int, side: int) -> np.ndarray:
    """The middle (side, side, 3) of an image whose shorter side becomes `shorter` pixels.

    The longer side is rounded down, as is the margin above and to the left: the iterator's way.
    """
    height, width = pixels.shape[:2]
    new = (shorter * height // width, shorter) if height > width else (shorter, shorter * width // height)
    pixels = resize(pixels, *new)
    y, x = ((extent - side) // 2 for extent in new)
    return pixels[y:y + side, x:x + side]


def jitter(pixels: np.ndarray, factors, order: Tuple[int, int, int]) -> np.ndarray:
    """Change brightness, contrast and saturation by `factors`, in the order of their numbers 0, 1, 2.

    Each is a mixture, factor x image + (1 - factor) x other, with black, with the mean grey of the image, and with
    its grey version; each is rounded and cut to 0..255, as in MXNet.
    """
    for which in order:
        factor = float(factors[which])
        if which == 0:
            pixels = cv2.addWeighted(pixels, factor, pixels, 0, 0)
        else:
            grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
            if which == 1:
                pixels = cv2.addWeighted(pixels, factor, pixels, 0, (1 - factor) * cv2.mean(grey)[0])
            else:
                pixels = cv2.addWeighted(pixels, factor, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), 1 - factor, 0)
    return pixels


def planes(pixels: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    """scale x pixels + shift by channel into out, float32 (3, height, width), red first; scale, shift: (3,)."""
    for plane, values, factor, offset in zip(out, cv2.split(pixels)[::-1], scale, shift):
        np.multiply(values, np.float32(factor), out=plane, dtype=np.float32)
        plane += np.float32(offset)


def mirror(pixels: np.ndarray) -> np.ndarray:
    """Left becomes right."""
    return cv2.flip(pixels, 1)
