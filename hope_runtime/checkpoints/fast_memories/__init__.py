"""Trained branches that come with the package, one safetensors file for each base model."""
