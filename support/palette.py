"""Okabe and Ito's colours, which readers with any kind of colour vision can tell apart (jfly.uni-koeln.de/color)."""
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GRAY = "#777777"  # for what is beside the point
LINES = (VERMILLION, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK)  # in turn; yellow is too light for a line on white
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
