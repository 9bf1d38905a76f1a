"""The curves of trainings over their epochs: of one run, and of several runs in the same axes."""
import math

from support import palette

from . import COLUMN, save, styled, words

FEW = 40  # epochs; with fewer, each has a mark


def plot_history(records, path, title, scored_on):
    """Draw error (percent), loss and learning rate over the epochs of one run.

    records : as in metrics.jsonl. scored_on : the images of val_accuracy, such as 'test images'.
    """
    with styled() as pyplot, words(title, longest=100) as (title,):
        epochs = [record["epoch"] + 1 for record in records]
        figure, (error_axes, loss_axes) = pyplot.subplots(1, 2, figsize=(2 * COLUMN, 2.5), layout="constrained")
        for key, label, color in (("train", "training (augmented)", palette.GRAY), ("val", scored_on, palette.BLUE)):
            style = {"color": color, "marker": "." if len(epochs) < FEW else None}
            error_axes.plot(epochs, [100 * (1 - record[f"{key}_accuracy"]) for record in records], **style)
            loss_axes.plot(epochs, [record[f"{key}_loss"] for record in records], **style, label=label)
        last = 100 * (1 - records[-1]["val_accuracy"])
        error_axes.annotate(f"{last:.2f}%", (epochs[-1], last), textcoords="offset points", xytext=(0, 7), ha="right",
                            color=palette.BLUE)
        error_axes.set(xlabel="epoch", ylabel="top-1 error (%)", ylim=(0, None))
        loss_axes.set(xlabel="epoch", ylabel="cross entropy (nats)", ylim=(0, None))
        rate_axes = loss_axes.twinx()
        rate_axes.step(epochs, [record["lr"] for record in records], where="mid", color=palette.ORANGE, linewidth=1,
                       linestyle="--", label="learning rate")
        rate_axes.spines["right"].set_visible(True)
        rate_axes.set(ylabel="learning rate", ylim=(0, None))
        for axes in (error_axes, loss_axes):
            _over_epochs(axes)
        _legend_below(figure, loss_axes, rate_axes)
        figure.suptitle(title, fontsize=8)
        save(figure, path)


def overlay(runs, path):
    """Draw the error on the scored images, and both losses, of several runs in the same axes.

    runs : {label: records of metrics.jsonl}.
    """
    with styled() as pyplot, words(*runs, longest=48) as labels:
        columns = 1 if max(map(len, labels)) > 24 else 3
        height = 2.3 + .15 * math.ceil((len(labels) + 1) / columns)
        figure, (error_axes, loss_axes) = pyplot.subplots(1, 2, figsize=(2 * COLUMN, height), layout="constrained")
        for index, (label, records) in enumerate(zip(labels, runs.values())):
            color, epochs = palette.LINES[index % len(palette.LINES)], [record["epoch"] + 1 for record in records]
            # A second round through the colours has another dash.
            style = {"color": color, "linestyle": ("-", "--", "-.")[index // len(palette.LINES) % 3]}
            error_axes.plot(epochs, [100 * (1 - record["val_accuracy"]) for record in records], **style,
                            label=f"{label}: {100 * (1 - records[-1]['val_accuracy']):.2f}%")
            loss_axes.plot(epochs, [record["val_loss"] for record in records], **style)
            loss_axes.plot(epochs, [record["train_loss"] for record in records], color=color, linestyle=":", alpha=.6)
        loss_axes.plot([], [], color=palette.BLACK, linestyle=":", alpha=.6, label="training loss (augmented)")
        error_axes.set(xlabel="epoch", ylabel="top-1 error (%)")
        loss_axes.set(xlabel="epoch", ylabel="cross entropy (nats)")
        for axes in (error_axes, loss_axes):
            _over_epochs(axes)
        _legend_below(figure, error_axes, loss_axes, columns=columns)
        save(figure, path)


def _over_epochs(axes):
    axes.grid(True)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _legend_below(figure, *all_axes, columns=3):
    """One legend for some axes below all of them, out of the way of every line."""
    handles = [axes.get_legend_handles_labels() for axes in all_axes]
    figure.legend(*(sum(parts, []) for parts in zip(*handles)), loc="outside lower center", ncols=columns)
