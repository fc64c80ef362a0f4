"""The budget of the default recipe: how many tokens it is worth, and in which steps it is spent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hope_runtime.session.policy import ReplayConfig


@given(st.integers(0, 600), st.integers(0, 600))
def test_few_statements_cost_more_a_token(stated, other):
    config = ReplayConfig(statement_price=100, plain_price=10, small_stretch_tokens=100)
    own = config.budget_tokens(stated, 0)
    assert 100 * stated <= own <= 100 * (stated + 50)
    assert own == 100 * stated or own <= 100 * 100
    assert config.budget_tokens(stated + 1, 0) >= own
    assert config.budget_tokens(stated, other) == own + 10 * other
    assert config.budget_tokens(0, other) == 10 * other


@given(st.integers(0, 200_000), st.floats(1, 2_000))
def test_a_small_budget_is_spent_in_smaller_steps(budget, step_tokens):
    whole = ReplayConfig(least_steps=36)
    config = whole.in_steps(budget, step_tokens)
    if budget >= 36 * step_tokens:
        assert config == whole
    assert 1 <= config.new_per_step <= whole.new_per_step
    assert 1 <= config.answered_per_step <= config.contrasts_per_step <= whole.contrasts_per_step
    assert 1 <= config.window_every <= whole.window_every


def test_a_kind_of_example_that_was_left_out_stays_out():
    config = ReplayConfig(contrasts_per_step=0, answered_per_step=0).in_steps(1, 100.0)
    assert config.contrasts_per_step == config.answered_per_step == 0
