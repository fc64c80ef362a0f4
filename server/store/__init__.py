"""Session stores: their interface, and the stores that satisfy it."""
