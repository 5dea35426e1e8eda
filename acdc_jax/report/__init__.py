"""What a run shows: the page, tables in the terminal, the picture, and model cards."""
