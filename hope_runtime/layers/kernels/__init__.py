"""Kernels of serving: the tensor functions of a decoding step that has a few rows of one token."""
