"""MXNet's graph of a net as text."""


def json_of(symbol):
    """symbol.tojson(); removing mixed-precision casts leaks a copy of the graph: only if there are any."""
    text = symbol.tojson(remove_amp_cast=False)
    return symbol.tojson() if "amp_cast" in text or "amp_multicast" in text else text
