"""Turns decoded by vLLM in a process of its own; learning and memories stay here.

Modules in `inside` run in that process and import vLLM; the others never do.
"""
