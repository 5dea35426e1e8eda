"""Small tables of figures under the device's name."""

from collections.abc import Sequence

import jax
from rich.console import Console
from rich.table import Table


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; the first column is text, the others numbers."""
    table = Table(title=f"{title}; {jax.devices()[0].device_kind}", title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
