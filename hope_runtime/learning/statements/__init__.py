"""Language that a recipe must understand: statements, their questions, and corrections. One
implementation for each language; so far English."""

from hope_runtime.learning.statements.parser import Anchor, Exchange, StatementParser

__all__ = ["Anchor", "Exchange", "StatementParser"]
