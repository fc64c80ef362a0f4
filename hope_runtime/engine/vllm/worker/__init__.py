"""Code that runs in the process of vLLM, whose version is pinned: much of it is private there."""
