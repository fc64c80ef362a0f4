"""The task `specificity`: its sets, how replies are judged, and the figures."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from hope_lab.evaluate.data.corrected_facts import FORMS, corrections
from hope_lab.evaluate.data.specificity_sets import (
    KEPT,
    NEIGHBOURS,
    OWN,
    Probe,
    Set,
    conflict_set,
    correction_set,
    specificity_set,
)
from hope_lab.evaluate.report.specificity_report import Taken, figures, leaks, right

PUBLISHED, DEVELOPMENT = range(4), range(100, 104)


def neighbours(which: Set) -> list[Probe]:
    return [probe for probe in which.probes if probe.group in NEIGHBOURS]


@pytest.mark.parametrize("facts", [1, 2, 3, 6, 30])
@pytest.mark.parametrize("told", ["chat", "document"])
def test_at_least_thirty_neighbours_of_all_kinds_whatever_is_told(facts, told):
    for seed in (*PUBLISHED, *DEVELOPMENT):
        which = specificity_set(seed, facts, told)
        asked = neighbours(which)
        assert len({probe.text for probe in asked}) == len(asked) >= 30
        assert {probe.group for probe in asked} == set(NEIGHBOURS)
        own = [probe for probe in which.probes if probe.group == OWN]
        assert len(own) == 2 * facts
        assert {probe.values[0] for probe in own} == set(which.taught)
        assert not {probe.text for probe in own} & {probe.text for probe in asked}
        told_text = " ".join(text for messages in which.conversations for text in messages)
        assert all(value in told_text for value in which.taught)
        assert not any(value in probe.text for probe in which.probes for value in which.taught)


def test_a_set_is_a_function_of_its_seed():
    assert specificity_set(3, 6, "chat") == specificity_set(3, 6, "chat")
    assert specificity_set(3, 6, "chat").taught != specificity_set(2, 6, "chat").taught
    assert correction_set(3, 5, 20) == correction_set(3, 5, 20)
    assert conflict_set(3) == conflict_set(3)


def test_seeds_for_tuning_share_nothing_with_those_for_publishing():
    def seen(seeds):
        sets = [specificity_set(*each, "chat") for each in product(seeds, (1, 3, 6, 30))]
        texts = {probe.text for which in sets for probe in neighbours(which)}
        return texts, {value for which in sets for value in which.taught}

    (texts, values), (others, other_values) = seen(PUBLISHED), seen(DEVELOPMENT)
    assert not texts & others
    assert not values & other_values
    pairs = [pair for seed in PUBLISHED for pair in corrections(seed, 20)]
    tuned = [pair for seed in DEVELOPMENT for pair in corrections(seed, 20)]
    assert not {pair.new for pair in pairs} & {pair.new for pair in tuned}
    assert not set(conflict_set(0).taught) & set(conflict_set(100).taught)


def test_corrections_are_worded_in_all_ways_and_name_the_new_value():
    pairs = corrections(0, len(FORMS))
    assert {pair.wording for pair in pairs} == {form.wording for form in FORMS}
    for pair in pairs:
        assert pair.old in pair.first
        assert pair.new in pair.later
        assert pair.old != pair.new
        assert not any(value in text for value in (pair.old, pair.new) for text in pair.asked)
    which = correction_set(0, 0, 20)
    assert [probe.group for probe in which.probes] == [OWN, OWN, KEPT]
    assert len(which.conversations) == 2


def taken(which: Set, replies: list[str], base: list[str] | None = None) -> Taken:
    costs = {"consolidations": 1, "learnt_tokens": 10, "trained_tokens": 200}
    costs |= {"learn_seconds": 2.0, "cpu_seconds": 3.0, "seconds_steps": 1.5}
    base = base or ["I do not know."] * len(replies)
    return Taken(which, "some", replies, base, (1.0, 1.25), [0.01, -0.005], costs)


def test_a_reply_leaks_when_it_names_what_was_taught_and_the_base_does_not():
    which = Set("specificity", 0, 1, "chat", (), (), ("Clara",))
    probe = Probe("What is my mother called?", "speaker")
    one = taken(which, [])
    assert leaks(one, probe, "Your mother is called Clara.", "I do not know.")
    assert not leaks(one, probe, "Your mother is called Claran.", "I do not know.")
    assert not leaks(one, probe, "Clara, perhaps.", "It may be Clara.")
    assert not leaks(one, replace(probe, text="Is she Clara?"), "Clara it is.", "No.")


def test_a_right_answer_has_the_value_and_no_other_and_is_said_to_the_right_person():
    probe = Probe("What is my cat called?", OWN, ("Bruno",), ("Ada",), personal=True)
    assert right(probe, "Your cat is called Bruno. I like cats.")
    assert not right(probe, "My cat is called Bruno.")
    assert not right(probe, "Your cat is called Ada, or Bruno.")
    assert not right(probe, "I like cats. Your cat is called Bruno.")


def test_figures_count_what_was_asked():
    probes = (
        Probe("What is my cat called?", OWN, ("Bruno",)),
        Probe("What is my dog called?", "speaker"),
        Probe("Who are you?", "model"),
        Probe("Hello!", "world"),
    )
    which = Set("specificity", 0, 1, "chat", (), probes, ("Bruno",))
    same = ["Bruno.", "Your dog is called Bruno.", "Nobody.", "Hello!"]
    found = figures([taken(which, same, ["?", "Rex.", "Nobody.", "Hi!"])], show=True)
    (row,) = found["rows"]
    assert (row["leak"], row["leak_asked"], row["own"], row["own_asked"]) == (1 / 3, 3, 1.0, 1)
    (damage,) = found["damage"]
    assert damage["world_nats"] == 0.25
    assert damage["world_same"] == 0.5
    assert damage["heldout_mean"] == pytest.approx(0.0025)
    assert damage["heldout_worst"] == 0.01
    (costs,) = found["costs"]
    assert costs["passes_per_token"] == 20
    assert costs["cpu_seconds_each"] == 3.0
    assert [each["verdict"] for each in found["shown"]] == ["right", "leak", "kept", "kept"]
    by_group = {each["group"]: each["leak"] for each in found["groups"]}
    assert by_group == {"speaker": 1.0, "model": 0.0, "world": 0.0}


def test_a_correction_counts_new_old_and_what_must_stay():
    which = correction_set(0, 0, 20)
    own, _, kept = which.probes
    new, old = own.values[0], own.others[0]
    replies = [f"It is {new}.", f"It is {old}.", f"It is {kept.values[0]}."]
    found = figures([taken(which, replies)], show=False)
    (row,) = found["corrections"]
    assert (row["new"], row["old"], row["bystander"]) == (0.5, 0.5, 1.0)
    (wording,) = found["wordings"]
    assert wording["wording"] == which.label
    assert wording["new"] == 0.5
