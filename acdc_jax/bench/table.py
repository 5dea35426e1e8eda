"""Tables of figures, under the name of the device."""

from collections.abc import Sequence

import jax
from rich.console import Console
from rich.table import Table


class Figures:
    """Rows of a table. Each is also printed as a line as soon as it is measured.

    Attributes:
        rows: The cells of each row.
    """

    def __init__(self, *columns: str) -> None:
        self.rows: list[tuple[str, ...]] = []
        self._columns = columns

    def add(self, *cells: str) -> None:
        """Add a row, and print its cells that are not empty."""
        self.rows.append(cells)
        print(*filter(None, cells), sep="  ", flush=True)

    def show(self, title: str) -> None:
        """Print the table, if it has rows."""
        if self.rows:
            show(title, self._columns, self.rows)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. Its first column is aligned to the left, the others to the right."""
    table = Table(title=f"{title}; {jax.devices()[0].device_kind}", title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
