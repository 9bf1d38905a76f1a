"""Names that a user may have misspelt."""
import difflib


def nearest(name, known):
    """The clause " (did you mean ...?)" for an error about an unknown name; "" if no known name is near."""
    name = str(name)[:60].lower()
    found = [one for one in known if one.startswith(f"{name}_")]  # the first word of a longer name
    if not found:
        found = difflib.get_close_matches(name, known, n=2, cutoff=.75)
        likeness = [difflib.SequenceMatcher(None, one, name).ratio() for one in found]
        found = [one for one, ratio in zip(found, likeness) if ratio > max(likeness) - .05]
    return f" (did you mean {' or '.join(found[:3])}?)" if found else ""
