"""Recipes: ways in which a level learns its spans."""
