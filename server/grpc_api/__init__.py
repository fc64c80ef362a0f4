"""gRPC services: translate requests, call sessions, translate answers and errors."""
