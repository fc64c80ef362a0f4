"""The tasks of `hope evaluate`."""
