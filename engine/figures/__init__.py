"""All drawings; this module has what they share: their style, users' words in any script, and how a file is written.

They are made to be read at the width of one column of a page.
"""
import contextlib
import os

from support.files import replacing, writing

COLUMN = 3.3  # inches, the width of a column
DPI = 220  # of a PNG
STYLE = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
         "legend.fontsize": 7, "axes.linewidth": .6, "xtick.major.width": .6, "ytick.major.width": .6,
         "xtick.major.size": 2.5, "ytick.major.size": 2.5, "lines.linewidth": 1.2, "lines.markersize": 4.5,
         "axes.spines.top": False, "axes.spines.right": False, "grid.linewidth": .5, "grid.alpha": .35,
         "legend.frameon": False, "legend.handlelength": 1.6, "legend.columnspacing": 1.2, "savefig.dpi": DPI,
         "pdf.fonttype": 42, "svg.hashsalt": "figures"}  # a salt: the same numbers give the same SVG


@contextlib.contextmanager
def styled():
    """Within the block pyplot, which this yields, draws in the house's style and without a display."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        yield pyplot


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
        legible = ["".join(sign if sign in drawn else sign.encode("unicode_escape").decode() for sign in word)
                   for word in given]
        yield [word if len(word) <= longest else f"{word[:longest - 3]}..." for word in legible]


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
            figure.savefig(temporary, format=os.path.splitext(path)[1][1:].lower(), **how)
    finally:
        pyplot.close(figure)
