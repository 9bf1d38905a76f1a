"""python -m tests.faults.report: renders the tables of docs/RELIABILITY.md from results/faults/."""
import sys

from . import suite  # isort: skip - finds the project
from engine.cli import flags
from engine.cli.program import run_script
from support.files import write_whole
from support.tables import fill_tables

from . import ROOT

PAGE = ROOT / "docs" / "RELIABILITY.md"


def table(theme, record):
    """A theme's faults in Markdown: rounds and outcomes as counted, what is promised and what is not."""
    lines = []
    if record is None:
        lines += [f"Not counted yet: run `{suite.command_of(theme.name, theme.rounds, 0)}`.", ""]
    else:
        lines += [f"`{suite.command_of(theme.name, record['asked'], record['seed'])}`: {record['rounds']:,} rounds in "
                  f"{record['seconds']:,.0f} s on {record['date']}, {len(record['faults']):,} broken promises.", ""]
    lines += ["| fault | rounds | outcomes | promised | not promised |", "|---|---|---|---|---|"]
    for case in theme.cases:
        row = (record or {"cases": {}})["cases"].get(case.name, {"rounds": 0, "outcomes": {}})
        lines.append(f"| {case.name} | {row['rounds']:,} | {suite.outcomes_text(row['outcomes'])} | {case.promised} | "
                     f"{case.not_promised or '-'} |")
    return "\n".join(lines)


def rendered(text):
    """The page's text with every table rendered again, and a section at its end for a theme that has none."""
    records, themes = suite.all_records(), suite.themes()
    for name, theme in themes.items():
        if f"<!-- table: {name} -->" not in text:
            text += f"\n## {theme.title}\n\n<!-- table: {name} -->\n<!-- end -->\n"
    return fill_tables(text, {name: lambda theme=theme: table(theme, records.get(theme.name))
                              for name, theme in themes.items()}, PAGE)


def main():
    parser = flags.Parser(prog="python -m tests.faults.report", description=__doc__)
    parser.parse_args()
    old = PAGE.read_text(encoding="utf-8")
    new = rendered(old)
    if new != old:
        write_whole(PAGE, new)
    print(f"{PAGE} was " + ("rendered again" if new != old else "up to date"))
    return 0


if __name__ == "__main__":
    sys.argv[0] = "faults"
    run_script(main)
