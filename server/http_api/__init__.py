"""HTTP: the OpenAI-compatible gateway, in the server's process, over server/app."""
