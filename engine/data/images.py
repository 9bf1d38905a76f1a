"""From image files to pixels: read, decode, crop, resize and jitter uint8 arrays (height, width, 3), blue first.

`read` and `decode` serve all pictures of the project: training images, validation images and those given to
evaluate.py. OpenCV decodes JPEGs, as in MXNet's record iterator: at full size, resized bilinearly and cropped, the
pixels equal the iterator's to the bit. Pillow decodes the other formats. EXIF data turn pictures upright, 16 bits
become the upper 8, and transparent parts become white.

OpenCV runs single-threaded: callers have their own threads, and decoding and resizing release Python's lock.
"""
import contextlib
import io
import itertools
import logging
import os
import re
import struct
import warnings
from typing import Callable, NamedTuple, Optional, Tuple

import numpy as np

from engine.data.records import MAX_BYTES, Damaged
from support import python, system
from support.errors import InputError
from support.files import regular

try:
    import cv2
except ImportError as error:  # require() reports it when images are to be read
    cv2, _missing = None, error

MAX_PIXELS = 1 << 27  # twice the largest image of ImageNet; a crafted file may claim any size
HUNGRY = {"WEBP": 2, "JPEG2000": 4}  # decoding these formats needs so many times the memory of the others
TILE = 1 << 18  # pixels converted at a time: a picture needs little more memory than its pixels
MOST_SCANS = 100  # of a JPEG: each takes the time of all its pixels, and programs write about ten
LONGEST_JPEG = 65_500  # pixels of a side, in libjpeg
LONGEST_STRIP = 64  # longer side over shorter side; a longer image is cut before it is resized

# The formats that Pillow may try, for any file name. Its other plugins run programs (Ghostscript) or fail in odd ways.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "JPEG2000")
NAMES = "JPEG, PNG, GIF, BMP, TIFF, WebP, PPM, ICO or JPEG 2000"
GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
COLOURS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "CMYK", "YCbCr")  # Pillow's modes of 8 bits

_BITS, _PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH = 258, 262, 322, 323  # tags of a TIFF

# A marker of a JPEG: FF and a code. In compressed pixels FF 00 stands for the byte FF, and D0 to D7 may come anywhere.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, 0xD8))
# These may follow compressed pixels: tables, another scan, a comment, application data, the end.
_BETWEEN = frozenset((0xC4, _END, _SCAN, 0xDB, 0xDC, 0xDD, 0xFE)) | frozenset(range(0xE0, 0xF0))

Box = Tuple[int, int, int, int]  # y, x, height, width

# Silence Pillow's remarks about odd files; what matters is also an exception.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

ORDERS = tuple(itertools.permutations(range(3)))


def require() -> None:
    """Prepare OpenCV in this process. Raises InputError if it cannot be imported.

    `read` and `decode` work without it: Pillow gives the same pixels for a grey or RGB JPEG, more slowly.
    """
    if cv2 is None:
        raise InputError(system.check_opencv() or f"OpenCV cannot be imported ({_missing}): {python.USE_VENV}")
    cv2.setNumThreads(0)


class Jpeg(NamedTuple):
    """The facts in a JPEG's markers: its size in pixels, and whether it has EXIF data."""

    height: int
    width: int
    exif: bool


def read_markers(data: bytes) -> Jpeg:
    """Walk through a JPEG from marker to marker. Raises Damaged if they do not make an image."""
    position, scanned, size, exif = 2, 0, None, False
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
            _check_size(*size)
        elif code == _SCAN:
            if size is None:
                raise Damaged("the JPEG has pixels before their size")
            scanned += 1
            if scanned > MOST_SCANS:
                raise Damaged(f"the JPEG goes over its pixels more than {MOST_SCANS} times")
        elif code == _APP1:
            exif = exif or data.startswith(b"Exif", after + 2)
    raise Damaged(f"the JPEG ends too early, after {len(data):,} bytes")


def _check_size(height, width, kind="JPEG"):
    most = MAX_PIXELS // HUNGRY.get(kind, 1)
    if height * width > most:
        raise Damaged(f"{width:,} x {height:,} pixels are more than are read of a {kind} ({most:,}): make it smaller")


def read(path) -> bytes:
    """All bytes of an image file. Raises Damaged for anything except a regular file: reading a pipe may never end."""
    try:
        with open(path, "rb", opener=regular) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise Damaged(f"{size:,} bytes are more than are read ({MAX_BYTES:,})")
            return file.read()
    except OSError as error:
        raise Damaged(f"it cannot be read: {error.strerror}") from None


def check(data: bytes) -> None:
    """Raise Damaged unless these bytes are a whole image file.

    OpenCV silently fills the missing part of a JPEG with grey, so its markers are checked; Pillow refuses by itself.
    Overwritten pixels that are still legal code go unnoticed; only a checksum of the file shows them.
    """
    if _markers(data) is None:
        _pillow(data)


def _markers(data):
    """The Jpeg in the bytes of a file; None if they are of another format. Raises Damaged."""
    if not data:
        raise Damaged("the file is empty")
    return read_markers(data) if data.startswith(b"\xff\xd8") else None


def decode(data: bytes) -> np.ndarray:
    """The pixels of an image file, uint8 (height, width, 3), blue first. Raises Damaged."""
    return crop(data, lambda height, width: (0, 0, height, width))


def crop(data: bytes, choose: Callable[[int, int], Box], side: Optional[int] = None) -> np.ndarray:
    """The part of an image file in the box choose(height, width). Raises Damaged.

    side: height and width to which the caller will resize the part. If the part of a JPEG is at least 2, 4 or 8 times
    larger each way, the JPEG is decoded at 1/2, 1/4 or 1/8 of its size: this is faster, and averages pixels that
    bilinear resizing would skip. None: always full size.
    """
    markers = _markers(data)
    # An EXIF orientation may turn the image, so its size is known only after decoding.
    if markers is None or side is None or markers.exif or min(markers.height, markers.width) < 2 * side:
        pixels = _pillow(data) if markers is None else _opencv(data, 1)
        y, x, height, width = choose(*pixels.shape[:2])
        return pixels[y:y + height, x:x + width]
    box = choose(markers.height, markers.width)
    factor = max((factor for factor in (2, 4, 8) if min(box[2:]) >= factor * side), default=1)
    pixels = _opencv(data, factor)
    y, x = (start // factor for start in box[:2])
    height, width = (max(1, extent // factor) for extent in box[2:])
    return pixels[y:y + height, x:x + width]


def _opencv(data, factor):
    if cv2 is None:
        return _pillow(data)
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
    from PIL import Image, ImageFile, ImageOps

    # Both hold for the whole process. Importing GluonCV sets the first to True. Pillow refuses twice the second, which
    # matters if a plugin decodes an image before its size is known.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.height, image.width, image.format)
            if image.format == "TIFF":
                _check_tiles(image)
            shift, inverted = _scale(image)
            image.decodermaxblock = 1 << 24  # Pillow's 64 KiB take minutes for an image of one long row
            image.load()
            with contextlib.suppress(SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
                ImageOps.exif_transpose(image, in_place=True)  # broken EXIF data are ignored, as in OpenCV
            _scale_transparency(image, data)
            return _eight_bits(image, shift, inverted)
    except (Damaged, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        raise Damaged(f"it is not an image that can be read ({NAMES})") from None
    except Image.DecompressionBombError:
        raise Damaged(f"it has more pixels than are read ({MAX_PIXELS:,}): make it smaller") from None
    except Exception as error:  # Pillow's plugins raise anything for broken files
        raise Damaged(f"it cannot be decoded ({' '.join(str(error).split())[:100]})") from None


def _check_tiles(image):
    """Raise Damaged for a TIFF whose tiles are larger than an image may be, or do not hold all its pixels."""
    _check_size(image.tag_v2.get(_TILE_LENGTH, 0), image.tag_v2.get(_TILE_WIDTH, 0), image.format)
    if sum((right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in image.tile) \
            < image.width * image.height:
        raise Damaged("the TIFF has no place for some of its pixels")


def _scale(image):
    """(bits to shift an opened image's grey by to get 8 bits, whether 0 is white).

    Raises Damaged for numbers of unknown range, such as a TIFF's floats.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode in COLOURS:
        return 0, False
    if image.mode in GREY16:  # 12 bits in some TIFFs
        return tags.get(_BITS, (16,))[0] - 8, tags.get(_PHOTOMETRIC) == 0
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # 16 bits, in 32 of memory
        return 8, False
    raise Damaged(f"the range of its numbers is not known (mode {image.mode}): save it with 8 or 16 bits")


def _scale_transparency(image, data):
    """Bring a PNG's transparent colour, which is on the file's scale, to the scale of Pillow's pixels."""
    key = image.info.get("transparency")
    if key is None or image.format != "PNG":
        return
    depth = data[24]
    if image.mode == "L" and depth < 8:
        image.info["transparency"] = key * 255 // (2**depth - 1)
    elif image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _eight_bits(image, shift, inverted):
    """The pixels of an image loaded by Pillow; converted tile by tile to save memory."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows, columns = max(1, TILE // image.width), min(TILE, image.width)
    for top, left in itertools.product(range(0, image.height, rows), range(0, image.width, columns)):
        bottom, right = min(top + rows, image.height), min(left + columns, image.width)
        part = image.crop((left, top, right, bottom))
        pixels[top:bottom, left:right] = _grey(part, shift, inverted) if shift else _colours(part)[:, :, ::-1]
    return pixels


def _grey(part, shift, inverted):
    values = np.asarray(part)
    grey = (values >> shift).astype(np.uint8)
    if inverted:
        grey = 255 - grey
    grey[values == part.info.get("transparency", -1)] = 255
    return grey[:, :, None]


def _colours(part):
    from PIL import Image

    if part.has_transparency_data:
        part = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
        white = Image.new("RGB", part.size, "white")
        white.paste(part, mask=part)
        part = white
    return np.asarray(part.convert("RGB"))


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, without smoothing first, as in MXNet's iterator and transforms: (..., 3) -> (height, width, 3)."""
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)


def with_shorter(pixels: np.ndarray, shorter: int) -> np.ndarray:
    """The image with a shorter side of `shorter` pixels; the longer side is rounded down, as in MXNet."""
    height, width = pixels.shape[:2]
    if height > width:
        return resize(pixels, shorter * height // width, shorter)
    return resize(pixels, shorter, shorter * width // height)


def centre(pixels: np.ndarray, shorter: int, side: int) -> np.ndarray:
    """The middle (side, side, 3) of an image whose shorter side becomes `shorter` pixels.

    The margins above and to the left are rounded down, as in MXNet's iterator.
    """
    height, width = pixels.shape[:2]
    longest = LONGEST_STRIP * min(height, width)
    if max(height, width) > longest:  # resizing a long strip would take gigabytes
        y, x = (max(0, extent - longest) // 2 for extent in (height, width))
        pixels = pixels[y:y + longest, x:x + longest]
    pixels = with_shorter(pixels, shorter)
    y, x = ((extent - side) // 2 for extent in pixels.shape[:2])
    return pixels[y:y + side, x:x + side]


def jitter(pixels: np.ndarray, factors, order: Tuple[int, int, int]) -> np.ndarray:
    """Change brightness (0), contrast (1) and saturation (2) by `factors`, in this order of the numbers.

    Each is a mixture, factor x image + (1 - factor) x other; the other is black, the image's mean grey, and its grey
    version. Each result is rounded and cut to 0..255, as in MXNet.
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


def compressed_again(data: bytes, shorter: int, quality: int) -> bytes:
    """An image file as a JPEG whose shorter side has `shorter` pixels. Raises Damaged."""
    pixels = decode(data)
    longer = shorter * max(pixels.shape[:2]) // min(pixels.shape[:2])
    if longer > LONGEST_JPEG:
        raise Damaged(f"its longer side would have {longer:,} pixels, more than a JPEG can have")
    return cv2.imencode(".jpg", with_shorter(pixels, shorter), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def planes(pixels: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    """Write scale x pixels + shift, by channel, into out: float32 (3, height, width), red first. scale, shift: (3,)."""
    for plane, values, factor, offset in zip(out, cv2.split(pixels)[::-1], scale, shift):
        np.multiply(values, np.float32(factor), out=plane, dtype=np.float32)
        plane += np.float32(offset)


def mirror(pixels: np.ndarray) -> np.ndarray:
    """Left becomes right."""
    return cv2.flip(pixels, 1)
