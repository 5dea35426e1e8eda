"""Generation: bucketed prefill, jitted decoding with continuous batching, sampling, scoring."""
