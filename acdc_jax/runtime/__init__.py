"""What a run needs around the algorithm: setup, members, its directory, processes, metrics."""
