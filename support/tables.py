"""Tables in Markdown, and pages that have them between marks."""
import re

from .errors import InputError


def row(cells):
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def table(head, rows):
    """A table. head: its first line as text; rows: the cells of the others."""
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *map(row, rows)])


def fill_tables(text, tables, page):
    """A page's text with every table between its marks rendered again. tables: {name of the marks: function}.

    page: its name in messages. Raises InputError if the page does not have exactly one place for each table.
    """
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = pattern.subn(lambda match, table=table: f"{match[1]}{table()}\n{match[2]}", text)
        if found != 1:
            raise InputError(f"{page} has {found} places for the table {name!r}, not one")
    return text
