"""Who calls: credentials in, a user out. Nothing a request says has a part in it."""
