"""The hope server: composition root, gRPC services, sessions and their store."""
