"""Blocks of the report: the runs that one table may compare, with their caption, table, figure and effort."""
import dataclasses
from typing import Optional

from engine.recipe import CIFAR_PAPER
from support.tables import table
from support.words import counted, duration

from . import grid, ledger
from .plan import costs_of, epoch_seconds
from .scores import Protocol, by_protocol

BASE = "relu"  # the unit that others are compared with in figures


@dataclasses.dataclass(frozen=True)
class Block:
    """The runs of one exhibit under one protocol. In Figure 6 all have the same b, `blocks`; otherwise it is None.

    only: the cells that its table shows; None for all.
    """

    exhibit: grid.Exhibit
    protocol: Protocol
    scores: dict
    blocks: Optional[int]
    only: Optional[frozenset] = None

    def shows(self, cell):
        """Whether the table has a row for the cell."""
        return self.only is None or cell in self.only

    @property
    def entries(self):
        """The exhibit's rows of these data and b; extras only if they were run."""
        return [entry for entry in self.exhibit.entries if entry.cell.data_name == self.protocol.data_name
                and self.blocks in (None, entry.cell.blocks)
                and (not entry.extra or self.protocol.data_name == grid.FINE or entry.cell in self.scores)]

    @property
    def data(self):
        """The data of the runs, as in their records."""
        return next(iter(self.scores.values())).records[0].result.data

    @property
    def smoke(self):
        """Whether the runs saw too few training images to mean anything."""
        return next(iter(self.scores.values())).records[0].smoke

    @property
    def alone(self):
        """Whether it has one net only, which compares with nothing but the published number."""
        return len(self.scores) == 1

    @property
    def marks(self):
        """The letters of LEGEND that every number here carries."""
        return "".join(mark for mark, holds in (
            ("S", self.protocol.short), ("D", not self.data["official"]), ("T", self.smoke),
            ("F", self.protocol.data_name == grid.FINE), ("H", self.protocol.val_split > 0)) if holds)

    @property
    def kinds(self):
        """The kinds of its figures (reproduce.figures); none for a smoke run or a single net."""
        if self.smoke or self.alone:
            return ()
        one = len({cell.blocks for cell in self.scores}) == 1
        bases = {cell.blocks for cell in self.scores if grid.unit(cell) == BASE}
        difference = ("difference",) * any(cell.blocks in bases for cell in self.scores if grid.unit(cell) != BASE)
        if self.exhibit is grid.FIG6:
            return (*(difference or ("accuracy",)), *("share",) * all(
                point["share"] is not None for point in gains(self)))
        if self.exhibit is grid.TABLE3:
            return ("accuracy" if one else "parameters", *difference)
        return ("parameters", "macs", *(() if one else difference))

    @property
    def figures(self):
        """{kind: file name} of its figures."""
        depth = f"-b{self.blocks}" if self.blocks else ""
        held = f"-v{self.protocol.val_split}" if self.protocol.val_split else ""
        name = (f"{self.exhibit.name}-{self.protocol.data_name}{depth}-e{self.protocol.epochs}-"
                f"{self.protocol.data_sha256[:8]}{held}")
        return {kind: f"{name}-{kind}.png" for kind in self.kinds}


def blocks_of(exhibit, records):
    """The blocks of an exhibit that have runs, in the order of `by_protocol`."""
    found = []
    for protocol, scores in by_protocol(records).items():
        cells = {entry.cell for entry in exhibit.entries}
        own = {cell: score for cell, score in scores.items() if cell in cells}
        depths = [None]
        if exhibit is grid.FIG6:
            # The two ends are cells of other exhibits too; a figure needs at least one step between them.
            depths = sorted({cell.blocks for cell in own if cell.net.get("replaced_sites")})
        for depth in depths:
            part = {cell: score for cell, score in own.items() if depth in (None, cell.blocks)}
            if part:
                found.append(Block(exhibit, protocol, part, depth))
    return found


def schedule_text(protocol):
    """In a few words: '15 of 400 epochs', '400 epochs, as in the paper'."""
    return f"{protocol.epochs} of {CIFAR_PAPER.epochs} epochs" if protocol.short \
        else f"{protocol.epochs} epochs, as in the paper"


def caption(block):
    """One paragraph that says what a block's numbers are."""
    protocol, data = block.protocol, block.data
    schedule = f"{counted(protocol.epochs, 'epoch')}, the paper's schedule"
    if protocol.short:
        schedule = (f"**short schedule: {counted(protocol.epochs, 'epoch')}, the paper has {CIFAR_PAPER.epochs}**, "
                    "with decays moved in proportion")
    label = ledger.data_label(data)
    images = "official data" if data["official"] else f"**not the official data: {label}**"
    if block.smoke:
        images += f", **only {data['train_images']:,} training images: a smoke run**"
    held = f"; **the best epoch was chosen on {protocol.val_split:,} held-out training images**" \
        if protocol.val_split else ""
    depth = f", b = {block.blocks}" if block.blocks else ""
    return (f"**{grid.TITLES[protocol.data_name]}{depth}**: {schedule}; {images}; scored on "
            f"{data['test_images']:,} test images{held}.")


def effort(block):
    """Training time of a block's runs, by hardware, and the time of the whole exhibit at those speeds."""
    machines, resumed = {}, 0
    for score in (score for cell, score in block.scores.items() if block.shows(cell)):
        for record in score.records:
            machines.setdefault(hardware_text(record.result.environment), []).append(record)
            resumed += record.result.resumed > 0
    cells = {entry.cell for entry in block.exhibit.entries if not entry.extra}
    data = {**block.data, "train_images": grid.WHOLE}
    parts = []
    for name, records in sorted(machines.items()):
        whole = sum(epoch_seconds(records, cell, data) for cell in cells) * CIFAR_PAPER.epochs
        parts.append(f"{duration(sum(record.result.seconds for record in records))} for {len(records)} "
                     f"run{'s' * (len(records) > 1)} on {name} (at that speed all {len(cells)} cells with the paper's "
                     f"{CIFAR_PAPER.epochs} epochs, one after the other, would take about {duration(whole)})")
    return f"Training time: {'; '.join(parts)}." + (
        f" {'One run was' if resumed == 1 else f'{resumed} runs were'} interrupted and resumed; the parts of epochs "
        "before an interruption are not in the time." if resumed else "")


def hardware_text(hardware):
    if hardware["gpus"]:
        return ", ".join(hardware["gpus"])
    return f"{hardware['processor']}, {hardware['threads']} CPU thread{'s' * (hardware['threads'] != '1')}"


def accuracy(score, which, marks):
    """Mean and spread of a cell's accuracies, with the block's marks."""
    spread = score.spread(which)
    return f"{score.mean(which):.4f}" + (f" ± {spread:.4f}" if spread is not None else "") \
        + (f" <sup>{marks}</sup>" if marks else "")


def runs_text(score, prefix):
    """Links from the seeds to their records."""
    return ", ".join(f"[seed {record.experiment.seed}]({prefix}runs/{record.id})" for record in score.records)


def depth_table(block, prefix):
    """Rows of Table III, Figure 7 or Figure 8: ours and published, for every b that has a run."""
    rows, without = [], {}  # without: {b: rows without a run}
    for entry in sorted(block.entries, key=lambda entry: entry.cell.blocks):
        cell, score = entry.cell, block.scores.get(entry.cell)
        if score is None:
            without.setdefault(cell.blocks, []).append(entry.row)
        elif block.shows(cell):
            published = grid.PUBLISHED.get(cell)
            rows.append([
                entry.row, str(cell.blocks), f"{costs_of(cell).total:,}",
                *(accuracy(score, which, block.marks) for which in ("last", "best")),
                *(["-", "", ""] if published is None else
                  [f"{published:.3f}", *(f"{score.mean(which) - published:+.4f}" for which in ("last", "best"))]),
                runs_text(score, prefix)])
    run = {cell.blocks for cell in block.scores}
    missing = [f"{', '.join(names)} with b = {depth}" for depth, names in without.items() if depth in run]
    depths = [str(depth) for depth in without if depth not in run]
    missing += [f"any net with b = {', '.join(depths)}"] if depths else []
    text = table("| net | b | parameters | ours, last epoch | ours, best epoch | published | last - published | "
                 "best - published | runs |", rows)
    return text + f"\n\nNot run under these conditions: {'; '.join(missing)}." * (missing != [] and block.only is None)


def alone_text(block, prefix):
    """A block of one net in one line: conditions, scores, published score and runs."""
    (cell, score), = block.scores.items()
    row = next(entry.row for entry in block.entries if entry.cell == cell)
    published = grid.PUBLISHED.get(cell)
    beside = f", published (best epoch) {published:.3f}" if published is not None else ""
    return (f"**{grid.TITLES[block.protocol.data_name]}**, {schedule_text(block.protocol)}, data: "
            f"{ledger.data_label(block.data)}; only {row} with b = {cell.blocks}: last epoch "
            f"{accuracy(score, 'last', block.marks)}, best epoch {accuracy(score, 'best', block.marks)}{beside} "
            f"({runs_text(score, prefix)}).")


def gains(block):
    """Figure 6's points of a block as dicts. share: of the gain from end to end, None if there is none."""
    data, depth = block.protocol.data_name, block.blocks
    full = 6 * depth + 1
    ends = [block.scores.get(grid.cell(data, "atac", depth, end)) for end in (0, full)]
    base = costs_of(grid.cell(data, "atac", depth, 0)).trainable
    gain = ends[1].mean() - ends[0].mean() if all(ends) else 0
    points = []
    for sites in range(full + 1):
        cell = grid.cell(data, "atac", depth, sites)
        if cell in block.scores:
            score = block.scores[cell]
            points.append({
                "sites": sites, "cell": cell, "increase": costs_of(cell).trainable / base - 1, "last": score.mean(),
                "spread": score.spread(), "stage": sites in grid.stage_counts(depth),
                "share": (score.mean() - ends[0].mean()) / gain if gain > 0 else None})
    return points


def replacement_table(block, prefix):
    """Figure 6: accuracy and its share of the whole gain as ATAC takes more sites, from the last."""
    rows, full = [], 6 * block.blocks + 1
    points = [point for point in gains(block) if block.shows(point["cell"])]
    for point in points:
        score = block.scores[point["cell"]]
        stage = " (whole stages)" if point["stage"] else ""
        share = "-" if point["share"] is None else f"{point['share']:.2f}"
        rows.append([f"{point['sites']} of {full}{stage}", f"{costs_of(point['cell']).total:,}",
                     f"{point['increase']:.4f}", accuracy(score, "last", block.marks),
                     accuracy(score, "best", block.marks), share, runs_text(score, prefix)])
    lines = [table("| sites with ATAC | parameters | increase (trainable) | ours, last epoch | ours, best epoch | "
                   "share of the gain | runs |", rows)]
    without = sorted(set(range(full + 1)) - {point["sites"] for point in points})
    if without and block.only is None:
        lines += ["", f"Not run under these conditions: {', '.join(map(str, without))} sites."]
    if any(point["share"] is None for point in points):
        lines += ["", "There are no shares: they need runs of both ends and a gain between them."]
    return "\n".join(lines)


def block_text(block, prefix):
    """A block in Markdown: caption, table, figure, effort. prefix leads from the page to the results."""
    rendered = replacement_table if block.exhibit is grid.FIG6 else depth_table
    figures = " ".join(f'<img src="{prefix}figures/{name}" width="420" alt="{block.exhibit.title}: {kind}">'
                       for kind, name in block.figures.items())
    return "\n\n".join([caption(block), rendered(block, prefix), *[figures] * bool(figures), effort(block)])
