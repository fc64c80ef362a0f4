"""What a recipe must understand of a language: statements, their questions, and what corrects
what. One implementation for each language; so far English."""

from hope_runtime.learning.statements.parser import Anchor, Exchange, StatementParser

__all__ = ["Anchor", "Exchange", "StatementParser"]
