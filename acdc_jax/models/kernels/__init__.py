"""Hand-written kernels, each behind a switch of `options.Kernels`, with XLA as the fallback."""
