"""Renders the tables of docs/PERFORMANCE.md from results/benchmarks/: `python -m benchmarks.report`."""
import functools
import sys

from engine.cli import flags
from engine.cli.program import run_script
from support.errors import InputError
from support.files import write_whole
from support.tables import fill_tables, row, table

from . import groups, harness
from .__main__ import DEFAULT_OUT

PAGE = harness.ROOT / "docs" / "PERFORMANCE.md"
TRAIN_IMAGES, BATCH = 50_000, 128  # a whole epoch is TRAIN_IMAGES // BATCH steps
TO_MS, TO_GIGA = 1000, 1e-9


# ---- Pieces of tables

def number(value):
    """A number with at least three significant digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


class NotMeasuredYet(Exception):
    """A table needs a group that has no record."""


class Records(dict):
    """{group: record}."""

    def __missing__(self, group):
        raise NotMeasuredYet(f"Not measured yet: `python -m benchmarks --only {group}`.")


def measured(record):
    """{name: variant} of a record's variants with a time."""
    return {variant["name"]: variant for variant in record["variants"] if "median" in variant}


def timing(variant, factor=TO_MS):
    low, high = variant["quartiles"]
    return f"{number(factor * variant['median'])} ({number(factor * low)}-{number(factor * high)})"


def ratio(variant):
    """A variant's time over ours."""
    return f"{variant['ratio']['median']:.2f}" if "ratio" in variant else ""


def reasons(records):
    """Why variants were not measured, one paragraph per reason."""
    found = {}
    for name, record in records:
        for variant in record["variants"]:
            if "not_measured" in variant:
                found.setdefault((variant["name"], variant["not_measured"]), []).append(name)
    return "".join(f"\n\nNot measured: {variant} ({', '.join(names)}): {why}." for (variant, why), names
                   in found.items())


def variant_names(records):
    """The names of all variants in the order of the first record that has them."""
    return list(dict.fromkeys(variant["name"] for _, record in records for variant in record["variants"]))


def comparison(named, cell, heads):
    """A table of variants by groups. named: [(heading, group)]; cell(variant) returns one text for each of heads."""
    def render(stored):
        records = [(heading, stored[group]) for heading, group in named]
        rows = []
        for name in variant_names(records):
            found = [measured(record).get(name) for _, record in records]
            if any(found):
                rows.append([name, *(text for variant in found
                                     for text in (cell(variant) if variant else ["-"] * len(heads)))])
        head = ["", *(f"{heading}, {text}".lstrip(", ") for heading, _ in records for text in heads)]
        return table(row(head), rows) + reasons(records)
    return render


# ---- Tables

def conditions(stored):
    """The machine and settings of each group, and whether the machine was quiet."""
    machines = {}
    for name, record in stored.items():
        description = record["machine"]
        packages = ", ".join(f"{package} {version}" for package, version in description["packages"].items())
        line = (f"{description['processor']} ({', '.join(description['flags'])}), {description['cores']} cores, "
                f"{description['memory_gib']} GiB; {description['system']}, glibc {description['glibc']}, Python "
                f"{description['python']}; {packages}")
        machines.setdefault(line, []).append(name)
    lines = [f"- {line}" + (f" (groups {', '.join(names)})" if len(machines) > 1 else "")
             for line, names in machines.items()]
    rows = []
    for name, record in stored.items():
        elsewhere = [variant["elsewhere"] for variant in record["variants"] if variant.get("elsewhere") is not None]
        threads = sorted({str(variant["threads"]) for variant in record["variants"] if "threads" in variant})
        rows.append([name, record["date"], str(record["repeats"]), ", ".join(threads),
                     f"{max(elsewhere):.2f}" if elsewhere else "", number(record["took_seconds"])])
    return "\n".join(lines) + "\n\n" + table(
        "| group | date | rounds | threads | cores busy elsewhere, at most | took, s |", rows)


def against_ours(named):
    """Times, and their ratios to ours; named: [(heading, group)]."""
    return comparison(named, lambda variant: [timing(variant), ratio(variant)], ["ms", "times ours"])


def units(stored):
    """Training steps of the other nets at b = 1: one row per net, one column per variant."""
    records = [(unit, stored[f"step/{unit}-b1"]) for unit in groups.UNITS]
    names = [name for name in variant_names(records) if any(name in measured(record) for _, record in records)]
    rows = []
    for unit, record in records:
        found = [measured(record).get(name) for name in names]
        rows.append([unit, *(f"{timing(variant)}" + (f", {ratio(variant)}x" if name != groups.OURS else "")
                             if variant else "-" for name, variant in zip(names, found))])
    return table(row(["unit", *(f"{name}, ms" for name in names)]), rows) + reasons(records)


def units_ahead(stored):
    """Each other net's times in short, and those of the compilers over them."""
    columns = {"step, b=3": "step/{}-b3", **{f"inference, b={b}, batch {n}": f"inference/{{}}-b{b}-n{n}"
                                             for n in (BATCH, 1) for b in (1, 3)}}
    records = {unit: [(group.format(unit), stored[group.format(unit)]) for group in columns.values()]
               for unit in groups.UNITS}
    rows = [[unit, *(_in_short(measured(record)) for _, record in found)] for unit, found in records.items()]
    return table(row(["unit", *columns]), rows) + reasons(sum(records.values(), []))


def _in_short(found):
    if groups.OURS not in found:
        return "-"
    others = [f"{ratio(found[name])}x {short}" for name, short in ((groups.COMPILED, "compiled"), (groups.ONNX, "ONNX"))
              if name in found]
    return ", ".join([f"{number(TO_MS * found[groups.OURS]['median'])} ms", *others])


def rate(variant):
    return number(variant["images"] / variant["median"])


def epochs(stored):
    """Training and validation together, and the time of a whole epoch at that speed."""
    def cell(variant):
        images = variant["images"]
        whole = TRAIN_IMAGES // BATCH * BATCH / images
        return [timing(variant, 1), f"{number(whole * variant['median'])}", ratio(variant)]

    named = [(f"b={b}", f"epoch/atac-b{b}") for b in (1, 3)]
    abouts = [found[groups.OURS]["about"] for found in (measured(stored[group]) for _, group in named)
              if groups.OURS in found]
    parts = {f"{about['training_images']:,} training and {about['validation_images']:,} validation images"
             for about in abouts}
    measured_part = f"Measured: {' or '.join(sorted(parts))}.\n\n" if parts else ""
    return measured_part + comparison(named, cell, ["s", f"s for {TRAIN_IMAGES // BATCH} steps", "times ours"])(stored)


def ceilings(stored):
    """The machine's best speeds."""
    record, rows = stored["ceilings"], []
    for name, variant in measured(record).items():
        if variant["bytes"]:
            rows.append([name, f"{number(variant['bytes'] * TO_GIGA / variant['median'])} GB/s, read and written"])
        else:
            rows.append([name, f"{number(variant['macs'] * TO_GIGA / variant['median'])} GMAC/s"])
    return table(row(["", "rate"]), rows) + reasons([("ceilings", record)])


def floor(stored):
    """The time of each net's multiply-adds at the fastest float32 matrix product's speed, and the share reached."""
    peak = max(variant["macs"] / variant["median"] for name, variant in measured(stored["ceilings"]).items()
               if name.startswith("float32 GEMM"))
    rows = []
    named = [(f"training step, b={b}", f"step/atac-b{b}") for b in (1, 3, 5)]
    named += [(f"inference, b={b}, batch {BATCH}", f"inference/atac-b{b}-n{BATCH}") for b in (1, 3)]
    named += [("ResNet-50, training step", "imagenet/training"), ("ResNet-50, inference", "imagenet/inference")]
    for heading, group in named:
        found = measured(stored[group])
        if groups.OURS in found:
            least = found[groups.OURS]["macs"] / peak
            share = [f"{least / found[name]['median']:.0%}" if name in found else "-"
                     for name in (groups.OURS, groups.PLAIN, groups.COMPILED)]
            rows.append([heading, number(found[groups.OURS]["macs"] * TO_GIGA), number(TO_MS * least), *share])
    return table(row(["", "GMAC", "floor, ms", groups.OURS, groups.PLAIN, groups.COMPILED]), rows)


def costs(group):
    """The time of a step over the number that a group varies."""
    def render(stored):
        record, kinds = stored[group], {}
        for name, variant in measured(record).items():
            kind, _, value = name.rpartition(", ")
            kinds.setdefault(kind, {})[value] = variant
        values = list(dict.fromkeys(value for found in kinds.values() for value in found))
        rows = [[kind, *(f"{timing(found[value])}, {rate(found[value])} images/s"
                         if value in found else "-" for value in values)] for kind, found in kinds.items()]
        return table(row(["ms", *values]), rows) + reasons([(group, record)])
    return render


def profiles(stored):
    """Operators of a step by kind, then oneDNN's primitives."""
    record, parts = stored["profile/atac-b1"], []
    for variant in record["variants"]:
        if "not_measured" in variant:
            continue
        about = variant["about"]
        wall = about["profiled_step_ms"]
        left = {"name": "no operator (Python, waiting)", "calls": 0, "ms": about["without_operator_ms"]}
        for title, found in (("operators", [*about["kinds"], left]), ("oneDNN's part of them", about["primitives"])):
            rows = [[each["name"], number(each["calls"]) if each["calls"] else "", number(each["ms"]),
                     f"{each['ms'] / wall:.0%}"] for each in found or ()]
            if rows:
                parts.append(table(row([f"{variant['name']}: {title}", "calls a step", "ms a step", "share"]), rows))
    return "\n\n".join(parts) + reasons([("profile/atac-b1", record)])


def samples(stored):
    """Shares of our step's processor time by kind of function."""
    variants = stored["samples"]["variants"]
    shares = {variant["name"]: variant["about"]["shares"] for variant in variants if "about" in variant}
    kinds = dict.fromkeys(kind for found in shares.values() for kind in found)
    rows = [[kind, *(f"{found[kind]:.0%}" for found in shares.values())] for kind in kinds]
    return table(row(["share of the processor time", *shares]), rows) + reasons([("samples", stored["samples"])])


TABLES = {
    "conditions": conditions, "steps": against_ours([(f"b={b}", f"step/atac-b{b}") for b in (1, 3, 5)]),
    "units": units, "units-ahead": units_ahead,
    "layouts": against_ours([(f"b={b}", f"layout/atac-b{b}") for b in (1, 3)]), "epochs": epochs,
    "inference": against_ours([(f"b={b}, batch {n}", f"inference/atac-b{b}-n{n}") for n in (BATCH, 1) for b in (1, 3)]),
    "imagenet": comparison([("training step", "imagenet/training"), ("inference", "imagenet/inference")],
                           lambda variant: [timing(variant), ratio(variant), rate(variant)],
                           ["ms", "times ours", "images/s"]),
    "memory": comparison([("step b=1", "step/atac-b1"), ("step b=3", "step/atac-b3"), ("step b=5", "step/atac-b5"),
                          ("epoch b=3", "epoch/atac-b3"), (f"inference b=3, batch {BATCH}",
                                                           f"inference/atac-b3-n{BATCH}")],
                         lambda variant: [number(variant["peak_mib"])], ["MiB"]),
    "ceilings": ceilings, "floor": floor, "cost-blocks": costs("cost/blocks"), "cost-batch": costs("cost/batch"),
    "cost-threads": costs("cost/threads"), "profile": profiles,
    "pipeline": comparison([("", "pipeline")], lambda variant: [rate(variant)], ["images/s"]),
    "runs": comparison([(f"b={b}", f"runs/atac-b{b}") for b in (1, 3)], lambda variant: [rate(variant)],
                       ["images/s, all runs together"]),
    "samples": samples,
}


# ---- The page

def render(text, stored):
    """The page's text with every table between its marks rendered again from {group: record}."""
    quick = [name for name, record in stored.items() if record["quick"]]
    if quick:
        raise InputError(f"{', '.join(quick)}: measured with --quick, which gives no results; measure again without it")

    def made(name):
        try:
            return TABLES[name](Records(stored))
        except NotMeasuredYet as error:
            return str(error)
    return fill_tables(text, {name: functools.partial(made, name) for name in TABLES}, "the page")


def main(argv=None):
    flags.Parser(prog="python -m benchmarks.report", description=__doc__).parse_args(argv)
    old = PAGE.read_text(encoding="utf-8")
    new = render(old, harness.read_records(DEFAULT_OUT)["groups"])
    if new != old:
        write_whole(PAGE, new)
    print(f"{PAGE.name}: its tables were " + ("rendered again" if new != old else "up to date"))
    return 0


if __name__ == "__main__":
    sys.argv[0] = "report"
    run_script(main)
