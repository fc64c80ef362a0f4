"""Tensor functions: norms, attention, adapters, associative memories. They know no session."""
