"""Numbers in sentences."""


def counted(count, noun):
    """A number with its noun: 1 epoch, 2 epochs, 3 classes, 4 batches, 12,000 images."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "tch")) else "s"
    return f"{count:,} {noun}{ending}"
