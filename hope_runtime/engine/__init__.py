"""Runs turns and consolidations of many sessions on one model."""
