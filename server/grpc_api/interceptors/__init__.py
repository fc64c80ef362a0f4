"""Interceptors around every gRPC call: identity, metrics, request log, traces."""
