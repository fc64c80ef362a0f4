"""Where sessions are kept: the interface of a store, and the stores that satisfy it."""
