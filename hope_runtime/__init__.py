"""The model and the engine: HOPE memories that learn while they are served.

Imports no grpc, no redis and no prometheus; knows no users.
"""
