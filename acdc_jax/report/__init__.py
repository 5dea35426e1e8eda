"""What a run shows: progress, tables, pictures."""
