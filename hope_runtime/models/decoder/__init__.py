"""Llama-family decoders: weights, block, and forward passes for one text and for a batch."""
