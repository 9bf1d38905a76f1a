"""Damage: bytes and JSON values as a bad disk, a flaky network, another program or a stranger would leave them."""
import copy
import json
import struct

ODD_NUMBERS = (0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -2**31, -2**63)
ODD_VALUES = (None, True, False, 0, -1, 7, 2**31, 10**30, .5, -1e308, float("nan"), float("inf"), "", "x", "\0", "ünï",
              "../../../etc/passwd", "/etc/passwd", "a\nb", "1", [], {}, [[]], [None], {"": {}}, ["x"] * 3, [0] * 64)


def damaged(content, rng, foreign=()):
    """One damaged version of some bytes, and how it was damaged; foreign: contents of other kinds of file."""
    kind = rng.choice(("cut", "cut", "flip", "flip", "flip", "run", "inserted", "deleted", "swapped", "appended",
                       "number", "number", "number", "junk", "empty", "foreign"))
    size = len(content)
    place = _place(rng, size)
    if kind == "cut":
        return content[:place], f"cut to {place} of {size} bytes"
    if kind == "flip" and size:
        damaged_bytes = bytearray(content)
        places = [_place(rng, size) for _ in range(rng.choice((1, 1, 1, 2, 8)))]
        for at in places:
            damaged_bytes[at] ^= 1 << rng.randrange(8)
        return bytes(damaged_bytes), f"bits flipped in bytes {places}"
    if kind == "run":
        length = rng.choice((1, 4, 16, 512, 4096))
        fill = rng.choice((b"\0", b"\xff", random_bytes(rng, 1))) * length
        return (content[:place] + fill + content[place + length:])[:size], f"{length} bytes at {place} overwritten"
    if kind == "inserted":
        extra = random_bytes(rng, rng.choice((1, 2, 8, 100)))
        return content[:place] + extra + content[place:], f"{len(extra)} bytes inserted at {place}"
    if kind == "deleted":
        length = rng.choice((1, 2, 8, 100))
        return content[:place] + content[place + length:], f"{length} bytes deleted at {place}"
    if kind == "swapped":
        other, length = _place(rng, size), rng.choice((4, 64, 512))
        low, high = sorted((place, other))
        length = min(length, high - low, size - high)
        return (content[:low] + content[high:high + length] + content[low + length:high] + content[low:low + length]
                + content[high + length:]), f"{length} bytes at {low} and {high} swapped"
    if kind == "appended":
        extra = rng.choice((b"\0", b"\n", random_bytes(rng, 64), content, bytes(4096)))
        return content + extra, f"{len(extra)} bytes appended"
    if kind == "number":
        form = rng.choice(("<i", "<q", ">I"))
        value = rng.choice(ODD_NUMBERS)
        packed = struct.pack(form, value & (2**(8 * struct.calcsize(form)) - 1)) if form == ">I" else \
            (value & (2**(8 * struct.calcsize(form)) - 1)).to_bytes(struct.calcsize(form), "little")
        at = place // 4 * 4
        return (content[:at] + packed + content[at + len(packed):])[:max(size, 1)], f"{value} written at {at} ({form})"
    if kind == "junk":
        length = rng.choice((size, 1, 100, 5000))
        return random_bytes(rng, length), f"{length} random bytes"
    if kind == "foreign" and foreign:
        chosen = rng.choice(sorted(foreign))
        return foreign[chosen], f"a file of another kind ({chosen})"
    return b"", "empty"


def random_bytes(rng, count):
    """So many random bytes (Random.randbytes needs Python 3.9)."""
    return rng.getrandbits(8 * count).to_bytes(count, "little") if count else b""


def _place(rng, size):
    """A byte, of the first or last ones in half of the cases: that is where structure lies."""
    if not size:
        return 0
    near = min(size, 200)
    return rng.choice((rng.randrange(size), rng.randrange(size), rng.randrange(near), size - 1 - rng.randrange(near)))


def odd(value, rng):
    """A JSON value with one or a few oddities in it, and what they are."""
    value, said = copy.deepcopy(value), []
    for _ in range(rng.choice((1, 1, 1, 2))):
        value, what = _one_odd(value, rng)
        said.append(what)
    return value, "; ".join(said)


def _one_odd(value, rng):
    places = list(_places(value))
    if not places:
        new = rng.choice(ODD_VALUES)
        return new, f"all of it {new!r}"
    holder, key, path = rng.choice(places)
    kind = rng.choice(("odd", "odd", "odd", "odd", "gone", "renamed", "swapped", "twisted"))
    if kind == "gone":
        del holder[key]
        return value, f"{path} gone"
    if kind == "renamed" and isinstance(holder, dict):
        holder[key.upper() if isinstance(key, str) else str(key)] = holder.pop(key)
        return value, f"{path} in capitals"
    if kind == "swapped":
        other_holder, other_key, other_path = rng.choice(places)
        try:
            holder[key], other_holder[other_key] = copy.deepcopy(other_holder[other_key]), copy.deepcopy(holder[key])
            return value, f"{path} and {other_path} swapped"
        except (KeyError, IndexError):
            return value, "unchanged"
    if kind == "twisted":
        new = _twisted(holder[key], rng)
        holder[key] = new
        return value, f"{path} {str(new)[:60]!r}"
    new = copy.deepcopy(rng.choice(ODD_VALUES))
    holder[key] = new
    return value, f"{path} {new!r}"


def _twisted(value, rng):
    """A value of the same type and another content, or its neighbour in type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, -value - 1, float(value), str(value), value * 2**40))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e300, str(value), int(value) if abs(value) < 1e9 else 0))
    if isinstance(value, str):
        return rng.choice((value + "x", value[:-1], value.upper(), "../" + value, "/" + value, value * 200, [value]))
    if isinstance(value, list):
        return rng.choice((value * 2, value[::-1], value[:-1], {"0": value}, tuple(value) and value[0] if value else 0))
    if isinstance(value, dict):
        return rng.choice((list(value.values()), list(value), {}, json.dumps(value)))
    return [value]


def _places(value, path=""):
    """(holder, key, path in words) of everything within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        where = f"{path}.{key}" if path else str(key)
        yield value, key, where
        yield from _places(inner, where)
