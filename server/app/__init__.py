"""The application: sessions, turns, jobs and versions. Knows neither gRPC nor HTTP."""
