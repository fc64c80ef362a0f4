"""Runnable comparisons: the demonstration and the published figures."""
