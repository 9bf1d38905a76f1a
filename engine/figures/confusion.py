"""The confusion matrix of an evaluation."""
import textwrap

from support import palette

from . import save, styled, words

WRITTEN, NAMED = 20, 100  # with more classes there is no room for the numbers, or for the names


def draw_confusion(confusion, class_names, path, title):
    """Draw how each true class (row) was answered, in per cent of its images, to a file.

    confusion[i, j] : images of class i answered j; columns beyond the classes are left out. A class without images has
    an empty row. Raises InputError if the file cannot be written.
    """
    count = len(class_names)
    shares = 100 * confusion[:, :count] / confusion.sum(axis=1, keepdims=True).clip(1)
    side = 12 if count > NAMED else .16 * count + 2.2 if count > WRITTEN else max(4.4, .34 * count + 1.2)
    small = count > WRITTEN
    with styled() as pyplot, words(*class_names, title, longest=120) as (*class_names, title), \
            pyplot.rc_context({"axes.spines.top": True, "axes.spines.right": True}):
        figure, axes = pyplot.subplots(figsize=(side + .9, side), layout="constrained")
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        if count <= NAMED:
            names = [(name if len(name) <= 32 else f"{name[:29]}...").replace("_", " ") for name in class_names]
            axes.set_xticks(range(count), names, rotation=90 if small else 45, ha="center" if small else "right",
                            rotation_mode="default" if small else "anchor", fontsize=6 if small else 8)
            axes.set_yticks(range(count), names, fontsize=6 if small else 8)
        axes.tick_params(length=0)
        axes.set(xlabel="answer of the net", ylabel="class of the image")
        if count <= WRITTEN:
            for row in range(count):
                for column in range(count):
                    if confusion[row, column]:
                        share = shares[row, column]
                        axes.text(column, row, f"{share:.0f}" if round(share) else "<1", ha="center", va="center",
                                  fontsize=7 if count <= 10 else 5.5, color="white" if share > 50 else palette.BLACK)
        figure.colorbar(image, ax=axes, shrink=.8, label="% of the class's images").outline.set_linewidth(.6)
        figure.suptitle("\n".join(textwrap.wrap(title, int(15 * side))), fontsize=8)
        save(figure, path, bbox_inches="tight")  # however long the names are
