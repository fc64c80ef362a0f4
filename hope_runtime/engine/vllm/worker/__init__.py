"""Code that runs in the process of vLLM, whose version is pinned: much of what is used is private."""
