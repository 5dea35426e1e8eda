"""Responses from a decoder: bucketed prefill, jitted decoding, sampling."""
