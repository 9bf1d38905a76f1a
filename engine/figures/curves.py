"""The curves of trainings over their epochs."""
import math

from support import palette

from . import COLUMN, save, styled, words

FEW = 40  # epochs; with fewer, each has a mark
TRAINING = {"linestyle": ":", "alpha": .6}  # beside the curves of the scored images


def draw(runs, path, title=""):
    """Draw error (percent) and loss of runs in the same axes, and the learning rate of a single run.

    runs : {label: records of metrics.jsonl}; a label names the curves of the images that were scored after each epoch.
    """
    with styled() as pyplot, words(title, *runs, longest=80) as (title, *labels):
        columns = 1 if max(map(len, labels)) > 24 else 3
        height = 2.35 + .15 * math.ceil((len(labels) + 1) / columns)
        figure, (error_axes, loss_axes) = pyplot.subplots(1, 2, figsize=(2 * COLUMN, height), layout="constrained")
        error_axes.set(xlabel="epoch", ylabel="top-1 error (%)")
        loss_axes.set(xlabel="epoch", ylabel="cross entropy (nats)")
        for axes in (error_axes, loss_axes):
            axes.grid(True)
            axes.xaxis.get_major_locator().set_params(integer=True)
        for index, (label, records) in enumerate(zip(labels, runs.values())):
            epochs = [record["epoch"] + 1 for record in records]
            style = {"color": palette.LINES[index % len(palette.LINES)], "marker": "." if len(epochs) < FEW else None}
            # A second round through the colours has another dash.
            scored = {"linestyle": ("-", "--", "-.")[index // len(palette.LINES) % 3],
                      "label": f"{label}: {100 * (1 - records[-1]['val_accuracy']):.2f}%"}
            for part, look in (("train", TRAINING), ("val", scored)):
                errors = [100 * (1 - record[f"{part}_accuracy"]) for record in records]
                error_axes.plot(epochs, errors, **style, **look)
                loss_axes.plot(epochs, [record[f"{part}_loss"] for record in records], **style, **look)
        error_axes.plot([], [], color=palette.BLACK, **TRAINING, label="training (augmented)")
        handles, names = error_axes.get_legend_handles_labels()
        if len(runs) == 1:
            rate_axes = loss_axes.twinx()
            handles += rate_axes.step(epochs, [record["lr"] for record in records], where="mid", color=palette.GRAY,
                                      linewidth=1, linestyle="--")
            names.append("learning rate")
            rate_axes.spines["right"].set_visible(True)
            rate_axes.set(ylabel="learning rate", ylim=(0, None))
        figure.legend(handles, names, loc="outside lower center", ncols=columns)  # out of the way of every line
        figure.suptitle(title, fontsize=8)
        save(figure, path)
