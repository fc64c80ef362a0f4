"""Budget of documents: how many tokens levels may run forward and backward for what was read.

A document grants so many passes for each of its tokens. What they add up to is decided at places in
the stream of learnable tokens, never by how the text was cut or when learning happened, so the
account is a fold of the log like all else. Knows no recipe: what is paid for is its choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# A document counts as at least so many tokens where its end has come, or where it says something
# that nobody can guess: a page must be able to pay for a fact.
LEAST_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Grant:
    """A part of a document, from `start` to `end` in learnable tokens of the session, each of which
    grants `passes`. `begins` says that it is the document's first."""

    start: int
    end: int
    passes: float
    begins: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """Passes of the document that was read last: granted for a token, granted so far, and spent."""

    passes: float
    earned: float = 0.0
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """Tokens that a consolidation may run forward and backward for documents.

    `earned` is what was granted and not spent, `most` the same of a document that counts as
    LEAST_TOKENS. `final` says that what is not learnt now will not be learnt later.
    """

    earned: int
    most: int
    final: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """Account of a session, and grants for tokens behind the last boundary of its fastest level.

    `account` is None before the first document with a budget: what was read then has no limit.
    """

    account: Account | None = None
    grants: tuple[Grant, ...] = ()

    def granting(self, start: int, end: int, passes: float, *, begins: bool) -> Budget:
        """With a grant for the tokens from `start` to `end`, joined to the last one if it goes on
        there."""
        last = self.grants[-1] if self.grants else None
        if not begins and last is not None and (last.end, last.passes) == (start, passes):
            return replace(self, grants=(*self.grants[:-1], replace(last, end=end)))
        return replace(self, grants=(*self.grants, Grant(start, end, passes, begins)))

    def settled(self, position: int) -> Budget:
        """With all grants before `position` in the account. A document that begins takes nothing
        over from the one before."""
        account, rest = self.account, []
        for grant in self.grants:
            if grant.start >= position:
                rest.append(grant)
                continue
            if grant.begins or account is None:
                account = Account(grant.passes)
            granted = grant.passes * (min(grant.end, position) - grant.start)
            account = replace(account, passes=grant.passes, earned=account.earned + granted)
            if grant.end > position:
                rest.append(Grant(position, grant.end, grant.passes))
        return Budget(account, tuple(rest))

    def allowance(self, *, final: bool) -> Allowance | None:
        """Allowance of a consolidation; None where nothing limits it."""
        account = self.account
        if account is None:
            return None
        most = max(account.earned, account.passes * LEAST_TOKENS)
        return Allowance(int(account.earned) - account.spent, int(most) - account.spent, final)

    def charged(self, tokens: int) -> Budget:
        """With so many tokens spent."""
        account = self.account
        if account is None or not tokens:
            return self
        return replace(self, account=replace(account, spent=account.spent + tokens))


NO_BUDGET = Budget()
