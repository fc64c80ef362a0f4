"""Optimisers as associative memories of gradients (Nested Learning, section 4)."""
