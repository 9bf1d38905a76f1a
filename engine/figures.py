"""Figures as files in the format that their name asks for, with users' words in them: any script, any sign."""
import contextlib
import os

from support.files import replacing, writing


@contextlib.contextmanager
def words(*given, longest=32):
    """Within the block matplotlib draws what is yielded: these words, legible.

    A dollar sign starts no formula, and a word is cut after `longest` signs. Signs that matplotlib's own font lacks are
    drawn with the fonts of this machine; what none of them has, and what is not printed, is written \\uXXXX.
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
    """The font families to draw these signs with, and which of them can be drawn."""
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
    except (OSError, RuntimeError):  # a font that matplotlib lists and FreeType cannot use
        return ()


def save(figure, path, **how):
    """Write a matplotlib figure, atomically, and close it; the extension of `path` is the format.

    how: more for matplotlib's savefig. Raises InputError when the disk refuses.
    """
    from matplotlib import pyplot

    try:
        with writing(path, "choose another folder"), replacing(path) as temporary:
            figure.savefig(temporary, format=os.path.splitext(path)[1][1:].lower(), dpi=120, **how)
    finally:
        pyplot.close(figure)
