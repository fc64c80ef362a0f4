"""Frozen decoders: families, weights, one block, and forward passes for a text or a batch."""
