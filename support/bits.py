"""Yes or no for each of many things, in order, as text: eight to a byte, the bytes in base64."""
import base64
import binascii

from .errors import InputError


def packed(flags):
    """The text of booleans."""
    import numpy as np

    return base64.b64encode(np.packbits(np.asarray(flags, bool)).tobytes()).decode("ascii")


def unpacked(text, count):
    """The `count` booleans of a text, as an array. Raises InputError unless it holds so many."""
    import numpy as np

    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("it is no base64") from None
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    if len(content) != (count + 7) // 8 or bits[count:].any():
        raise InputError(f"it does not hold {count:,} bits")
    return bits[:count].astype(bool)
