"""The names of arrays in the authors' files: the inverse of model.array_names.from_authors."""
import re

RULES = (
    (re.compile(r"^(features\..*)\.act([12])\.gate\."), r"\1.msAA\2.module."),
    (re.compile(r"^(layer\d\..*)\.act([12])\.gate\."), r"\1.relu\2.module."),
    (re.compile(r"\.act([12])\.alpha$"), r".msAA\1.alpha"),
    (re.compile(r"^features\.6\.gate\."), "features.6.module."),
)


def to_authors(name):
    """The authors' name of one of our arrays."""
    for pattern, replacement in RULES:
        name = pattern.sub(replacement, name)
    return name
