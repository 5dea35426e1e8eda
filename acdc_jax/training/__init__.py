"""Fine-tuning of experts, the seeds of a run, on the project's own decoder."""
