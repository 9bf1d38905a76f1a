"""Names that a user may have misspelt."""
import difflib


def nearest(name, known):
    """A clause for an error about an unknown name: " (did you mean ...?)", or "" where no known name is near."""
    found = difflib.get_close_matches(str(name)[:60].lower(), known, n=2, cutoff=.75)
    return f" (did you mean {' or '.join(found)}?)" if found else ""
