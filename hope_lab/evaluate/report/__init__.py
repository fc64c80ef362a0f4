"""Figures, tables, intervals and plots of an evaluation."""
