"""What is measured after the run: task forces and Coverage."""
