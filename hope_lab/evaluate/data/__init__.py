"""Texts, facts and questions that the tasks are made of."""
