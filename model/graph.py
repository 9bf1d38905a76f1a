"""MXNet's graph of a net as text."""


def json_of(symbol):
    """symbol.tojson(), which never frees the copy of the graph from which it takes the casts of mixed precision."""
    text = symbol.tojson(remove_amp_cast=False)
    return symbol.tojson() if "amp_cast" in text or "amp_multicast" in text else text
