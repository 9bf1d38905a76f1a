"""Numbers in sentences."""


def counted(count, noun):
    """A number with its noun: 1 epoch, 2 epochs, 3 classes, 4 batches, 12,000 images."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "tch")) else "s"
    return f"{count:,} {noun}{ending}"


def duration(seconds):
    """Seconds in words: 45 s, 12 min, 3.4 h, 2.1 days."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{1 if unit == 3600 else 0}f} {name}"
    return f"{seconds / 86400:.1f} days"
