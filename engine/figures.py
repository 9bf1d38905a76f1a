"""Figures as files in the format of their extension; they may hold users' words in any script."""
import contextlib
import os

from support.files import replacing, writing


@contextlib.contextmanager
def words(*given, longest=32):
    """Yields the words in a form that matplotlib can draw within the block.

    A dollar sign starts no formula, and a word is cut after `longest` signs. Signs that matplotlib's own font lacks are
    drawn with other fonts of this machine; signs that no font has, and unprintable ones, become \\uXXXX.
    """
    import matplotlib
    matplotlib.use("Agg")

    families, drawn = _fonts("".join(given))
    with matplotlib.rc_context({"font.family": families, "text.parse_math": False}):
        yield [_legible(word, drawn, longest) for word in given]


def _legible(word, drawn, longest):
    word = "".join(sign if sign in drawn else sign.encode("unicode_escape").decode() for sign in word)
    return word if len(word) <= longest else f"{word[:longest - 3]}..."


def _fonts(signs):
    """The font families that draw these signs, and the set of signs that they can draw."""
    from matplotlib import font_manager, rcParams

    families, drawn = list(rcParams["font.family"]), set()
    wanted = {sign for sign in signs if sign.isprintable()}
    paths = [(None, font_manager.findfont(font_manager.FontProperties()))]
    paths += [(font.name, font.fname) for font in font_manager.fontManager.ttflist]
    for family, path in paths:
        if drawn == wanted:
            break
        found = {sign for sign in wanted - drawn if ord(sign) in _charmap(path)}
        if found and family is not None:
            families.append(family)
        drawn |= found
    return families, drawn


def _charmap(path):
    from matplotlib import ft2font

    try:
        font = ft2font.FT2Font(path)
        return font.get_charmap() if font.scalable else ()
    except (OSError, RuntimeError):  # matplotlib lists fonts that FreeType cannot use
        return ()


def save(figure, path, **how):
    """Write a matplotlib figure atomically and close it; the extension of `path` is the format.

    how: keyword arguments of matplotlib's savefig. Raises InputError if the file cannot be written.
    """
    from matplotlib import pyplot

    try:
        with writing(path, "choose another folder"), replacing(path) as temporary:
            figure.savefig(temporary, format=os.path.splitext(path)[1][1:].lower(), dpi=120, **how)
    finally:
        pyplot.close(figure)
