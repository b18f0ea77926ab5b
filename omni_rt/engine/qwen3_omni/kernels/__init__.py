"""Triton kernels of the fast path. Each has a plain counterpart in PyTorch that the tests hold it against."""
