"""Authentication: credentials in, a user out, whatever a request says."""
