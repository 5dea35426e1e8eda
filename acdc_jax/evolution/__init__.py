"""Merging, mutation, proposals and the novelty-search archive."""
