"""State of a session as plain data: levels, windows, log, and the SessionMemory that owns them."""
