"""Best of N: choose one of N answers to a question, by several methods."""
