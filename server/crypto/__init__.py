"""Secrets at rest: keys, and the sealing of bytes with them."""
