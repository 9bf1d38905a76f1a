"""The ATAC unit as a drawing, in SVG, which is readable on white and on dark pages."""
from support import palette
from support.files import write_whole

LINE = "#7d7d7d"  # in contrast with white and with black
FILLS = {"conv": ("#cfe4f5", palette.BLUE), "norm": ("#e6e6e6", "#666666"), "relu": ("#cdebe0", palette.GREEN),
         "gate": ("#fbe3b3", palette.ORANGE)}
# The gate of Equation 5: (kind, lines of text, width), from left to right.
LAYERS = (("conv", ("pointwise", "conv 1×1"), 84), ("norm", ("BN",), 42), ("relu", ("ReLU",), 52),
          ("conv", ("pointwise", "conv 1×1"), 84), ("norm", ("BN",), 42), ("gate", ("sigmoid",), 66))
SHAPES = {0: "C × H × W", 3: "C/r × H × W", 6: "C × H × W"}  # before the layer of this number
HEIGHT, GAP, TOP, BOTTOM = 46, 24, 64, 150


def draw_unit(path):
    """Write the drawing: x, times the sigmoid of two pointwise convolutions of x with BN, and a ReLU between them.

    Raises InputError if the file cannot be written.
    """
    parts, x = [], 130
    start = x
    for number, (kind, text, width) in enumerate(LAYERS):
        if number in SHAPES:
            parts.append(_text(x + GAP / 2 + (10 if number == 0 else 0), TOP - HEIGHT / 2 - 10, SHAPES[number], 11))
        parts.append(_arrow(x, TOP, x + GAP, TOP))
        x += GAP
        fill, edge = FILLS[kind]
        parts.append(f'<rect x="{x}" y="{TOP - HEIGHT / 2}" width="{width}" height="{HEIGHT}" rx="6" fill="{fill}" '
                     f'stroke="{edge}" stroke-width="1.5"/>')
        for line, words in enumerate(text):
            parts.append(_text(x + width / 2, TOP + 4.5 + 15 * (line - (len(text) - 1) / 2), words, 13, "#1a1a1a"))
        x += width
    end = x + 40
    parts.append(_text(x + 20, TOP - HEIGHT / 2 - 10, SHAPES[len(LAYERS)], 11))
    parts += [
        f'<path d="M {start} {TOP} V {BOTTOM}" fill="none" stroke="{LINE}" stroke-width="1.8"/>',
        f'<circle cx="{start}" cy="{BOTTOM}" r="3" fill="{LINE}"/>',
        f'<path d="M {x} {TOP} H {end}" fill="none" stroke="{LINE}" stroke-width="1.8"/>',
        _arrow(end, TOP, end, BOTTOM - 15), _arrow(78, BOTTOM, end - 15, BOTTOM),
        _arrow(end + 15, BOTTOM, end + 44, BOTTOM),
        f'<circle cx="{end}" cy="{BOTTOM}" r="14" fill="#f8d9c6" stroke="{palette.VERMILLION}" stroke-width="1.5"/>',
        f'<path d="M {end - 6} {BOTTOM - 6} l 12 12 m -12 0 l 12 -12" stroke="#1a1a1a" stroke-width="1.8"/>',
        _text(56, BOTTOM + 5, "x", 17, style="italic"), _text(56, BOTTOM + 26, "C × H × W", 11),
        _text(end + 84, BOTTOM + 5, "G(x) ⊙ x", 15, style="italic"), _text(end + 84, BOTTOM + 26, "C × H × W", 11),
        _text(end + 14, (TOP + BOTTOM) / 2 + 4, "G(x)", 15, style="italic", anchor="start")]
    width, height = end + 140, BOTTOM + 44
    content = "\n".join(parts)
    write_whole(path, f'''<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" \
height="{height}" font-family="Helvetica, Arial, sans-serif" role="img">
<title>The ATAC unit</title>
<desc>The input x goes through a pointwise convolution from C to C/r channels, batch normalization, ReLU, a pointwise \
convolution from C/r to C channels, batch normalization and a sigmoid; the result G(x) multiplies x.</desc>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">\
<path d="M 0 0 L 8 4 L 0 8 z" fill="{LINE}"/></marker></defs>
{content}
</svg>
''')


def _arrow(x, y, to_x, to_y):
    return (f'<path d="M {x} {y} L {to_x} {to_y}" fill="none" stroke="{LINE}" stroke-width="1.8" '
            'marker-end="url(#tip)"/>')


def _text(x, y, words, size, color=LINE, style="normal", anchor="middle"):
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-style="{style}" fill="{color}" '
            f'text-anchor="{anchor}">{words}</text>')
