"""Authentication: credentials in, a user out. Nothing in a request has a part in it."""
