"""Constants of the recipe `specific_replay`, a part of the policy (policy.py)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_OF_QUESTIONS = (
    "questions_next_to",
    "leak_rounds",
    "leaks_per_step",
    "settling_steps",
    "settling_weight",
)


@dataclass(frozen=True, slots=True)
class SpecificConfig:
    """Constants of the recipe `specific_replay` (learning/recipes/specific/); figures in
    docs/evaluation.md.

    A step practises every statement of the stretch in some of its forms and holds the memory, by
    KL, where it must not change: at contrasts (a statement's own questions about others), at
    anchors (everyday questions) and at a window of the base's own text. At the end it is asked what
    lies next to what was told; where it answers with that, it is held, too.
    """

    # Share of the layers, the lowest, that are left as they are. They would learn no better and do
    # more harm, and what they make of a text is the same in every step.
    frozen_share: float = 0.47
    # Steps at most; fewer when every token of every form is known.
    steps: int = 14
    least_steps: int = 6
    # So many more for each further statement, up to the most.
    steps_each: int = 2
    most_steps: int = 22
    # Longest span, in tokens, that is practised as a statement and not only read again.
    statement_tokens: int = 40
    # The same of one whose value nobody can guess: a number, a code, a UUID has many tokens.
    odd_statement_tokens: int = 72
    # Least surprise, nats per token, at which a document's sentence is practised as a statement.
    # (What a user says is practised whatever its surprise.)
    document_surprise_nats: float = 5.0
    # The same of one whose value nobody can guess; its other words are often ordinary.
    odd_surprise_nats: float = 2.5
    # Statements of documents that a consolidation practises at most: those that surprise most.
    document_statements: int = 16
    # Least surprise, nats per token, at which any other text is read again, and how many tokens of
    # such texts a consolidation reads again at most. All the rest costs nothing but reading.
    text_surprise_nats: float = 6.0
    text_tokens: int = 128
    # Questions that a statement is practised as the answer to, at most.
    questions: int = 6
    # Forms in which statements are practised in a step, together at least; of a few statements two
    # each, of many one.
    forms_per_step: int = 3
    # Up to so many statements are few: they are told from all the rest by what is held alone, many
    # also from each other.
    few_statements: int = 8
    # How often a text that is only read again is read in all.
    plain_passes: int = 4
    # Forms of earlier statements in a step.
    earlier_per_step: int = 6
    # Contrasts in a step: so many and one more for each statement, up to the most; and anchors.
    contrasts_per_step: int = 4
    most_contrasts: int = 12
    anchors_per_step: int = 6
    # How many of the anchors are questions next to what was told, of which only the first token
    # of a reply is held.
    near_share: float = 0.34
    # What further statements add to the weight of all that is new, which is 1 for a single one.
    weight_each: float = 0.2
    contrast_weight: float = 3.0
    anchor_weight: float = 3.0
    rehearsal_weight: float = 1.0
    # Whether what no statement answers, new or earlier, is held to the base, and not to the memory
    # before: that would let what each consolidation bends add up.
    held_to_base: bool = True
    # Of texts that are only read again, and of earlier statements, beside 1 of new statements.
    text_weight: float = 0.5
    earlier_weight: float = 1.0
    # A window of the base's own samples every so many steps, in all others one of the texts of
    # other kinds (learning/recipes/specific/directions.py).
    window_every: int = 2
    # Once the steps are over, so many questions that nothing told answers are asked. Where the
    # memory answers them with what was told, it is held at so many such answers, in place of
    # contrasts, in each of a few steps more; and is asked again, so often in all.
    questions_next_to: int = 48
    leak_rounds: int = 1
    leaks_per_step: int = 8
    settling_steps: int = 4
    # In those steps what is new weighs so many times as much, for leaks are often its own wording.
    settling_weight: float = 3.0
    # Directions of the inputs of gate and up, and of down, that the first factors never read.
    outer_directions: int = 64
    inner_directions: int = 192
    # And the strongest beside them of what the stretch's own contrasts have in common.
    own_directions: int = 64
    # A form is known when no token costs more, nats: each is the likeliest one, with a margin.
    known_nats: float = 0.5
    # Share of the learning rate that second factors learn at, relative to the first.
    second_rate: float = 1.3
    # Share of the learning rate at which a level that has learnt before learns again.
    later_rate: float = 0.67
    # Share of the learning rate that is left at the last step.
    final_rate: float = 0.3
    # Tokens of earlier spans that a session keeps to rehearse.
    buffer_tokens: int = 1024
    # Share of its strength that a level keeps when a slower one has learnt the same spans.
    fast_decay: float = 0.5

    def counted(self) -> dict[str, Any]:
        """The constants that count in a policy's digest: those of what is switched off do not, as
        policies of before did not know them."""
        constants = asdict(self)
        if not self.held_to_base:
            del constants["held_to_base"]
        if not self.questions_next_to:
            for name in _OF_QUESTIONS:
                del constants[name]
        return constants

    def __post_init__(self) -> None:
        if min(self.steps, self.least_steps, self.window_every, self.forms_per_step) < 1:
            raise ValueError("counts of steps and of forms are at least 1")
        if not 0 <= self.fast_decay <= 1 or not 0 <= self.near_share <= 1:
            raise ValueError("fast_decay and near_share lie in [0, 1]")
        if not 0 <= self.frozen_share < 1:
            raise ValueError("frozen_share lies in [0, 1)")
        if min(self.outer_directions, self.inner_directions, self.own_directions) < 0:
            raise ValueError("directions are at least 0")


# The constants of the default policy.
SPECIFIC = SpecificConfig()
