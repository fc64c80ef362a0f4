"""The default recipe's machinery, on a tiny model with the real tokenizer and chat template."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from hope_runtime.engine.prompt import encode_spans
from hope_runtime.layers.lora import initial
from hope_runtime.learning import Learner
from hope_runtime.learning.decoding import decode
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import Example, pack, share_out
from hope_runtime.learning.recipes.replay.examples import ReplayWriter
from hope_runtime.learning.reference import references, up_to_surprise
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.workers import Workers
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory, Span
from hope_runtime.session.policy import LearningPolicy, LevelConfig, ReplayConfig
from hope_runtime.tokenizer import Tokenizer

POLICY = LearningPolicy(
    name="small",
    levels=(
        LevelConfig(period_tokens=32, rank=4, learning_rate=3e-3),
        LevelConfig(period_tokens=64, rank=2, learning_rate=3e-3),
    ),
    replay=ReplayConfig(statement_price=8, plain_price=4, buffer_tokens=40),
)
FACTS = (
    "Zanthor lives in Oslo. Brisa has a ferret. Oderic plays the harp. My name is Tamsin. "
    "Lorcan works for Redfern. Pavo's door code is 4821. Yelena speaks Dutch. I work as a baker. "
    "Ishara drives a Volvo. Wendell's boat is called the Daisy."
)


def told(model, text, *, policy=POLICY):
    """A memory that has observed `text` as a user's turn and then the end of the conversation."""
    memory = SessionMemory.fresh(model.fingerprint, policy)
    segment = Segment(Speaker.USER, encode_spans(model.tokenizer, text), learnable=True)
    for record in (
        Record(RecordKind.TURN, "default", (segment,)),
        Record(RecordKind.END_CONVERSATION, "default"),
    ):
        memory = observe(memory, record, window_tokens=256)
    return memory


def learnt(model, memory, threads=1):
    learner = Learner(model, threads)
    while (boundary := due(memory)) is not None:
        memory = learner.consolidate_now(memory, boundary)
    return memory


@pytest.fixture(scope="module")
def taught(chat_model):
    return learnt(chat_model, told(chat_model, FACTS))


def writer(model):
    return ReplayWriter(model.tokenizer, Names(model.tokenizer))


def statement(model, text, questions=()):
    ids = tuple(model.tokenizer.encode(text))
    return Statement(Span(ids, Speaker.USER, 0), text, tuple(questions))


def test_a_consolidation_is_a_pure_function(chat_model, taught):
    again = learnt(chat_model, told(chat_model, FACTS))
    assert again.hash() == taught.hash()
    assert again.buffer == taught.buffer


def test_the_number_of_threads_changes_no_bit(chat_model, taught):
    assert learnt(chat_model, told(chat_model, FACTS), threads=3).hash() == taught.hash()


def test_no_boundary_is_left_and_every_level_that_was_due_learnt(taught):
    assert due(taught) is None
    assert not taught.pending
    assert all(level.updates > 0 for level in taught.levels)


def test_the_buffer_is_bounded_and_its_spans_carry_their_questions(chat_model, taught):
    assert 0 < sum(len(span.ids) for span in taught.buffer) <= POLICY.replay.buffer_tokens
    texts = [chat_model.tokenizer.decode(span.ids) for span in taught.buffer]
    assert all(text.strip() in FACTS for text in texts)
    assert all(span.cues and span.surprise_nats is not None for span in taught.buffer)


@pytest.mark.parametrize("speaker", [Speaker.DOCUMENT, Speaker.USER])
@pytest.mark.parametrize("threshold_nats", [0.0, 100.0])
def test_only_what_surprises_in_a_document_is_practised_like_a_fact(
    chat_model, speaker, threshold_nats
):
    policy = replace(POLICY, replay=replace(POLICY.replay, document_surprise_nats=threshold_nats))
    told_by = Segment(speaker, encode_spans(chat_model.tokenizer, "Zanthor lives in Oslo."), True)
    memory = observe(
        SessionMemory.fresh(chat_model.fingerprint, policy),
        Record(RecordKind.TURN, "default", (told_by,)),
        window_tokens=256,
    )
    memory = observe(memory, Record(RecordKind.END_CONVERSATION, "default"), window_tokens=256)
    # Only statements are rehearsed later on.
    rehearsed = bool(learnt(chat_model, memory).buffer)
    assert rehearsed == (speaker is Speaker.USER or threshold_nats == 0)


def test_learning_lowers_the_surprise_of_what_was_taught(chat_model):
    policy = replace(POLICY, replay=replace(POLICY.replay, statement_price=60))
    memory = learnt(chat_model, told(chat_model, "Zanthor lives in Oslo.", policy=policy))
    level = memory.levels[0]
    assert level.surprise_after_nats < level.surprise_before_nats


def test_a_rate_of_zero_leaves_the_base_model_bit_for_bit(chat_model):
    levels = tuple(replace(level, learning_rate=0.0) for level in POLICY.levels)
    memory = learnt(chat_model, told(chat_model, FACTS, policy=replace(POLICY, levels=levels)))
    for level in memory.levels:
        assert level.updates > 0
        assert level.adapter is not None
        assert level.adapter.norm() == 0


def test_a_faster_level_gives_way_when_a_slower_one_has_learnt(chat_model):
    still = replace(POLICY.levels[1], learning_rate=0.0)
    decays = replace(POLICY, levels=(POLICY.levels[0], still))
    keeps = replace(decays, replay=replace(POLICY.replay, fast_decay=1.0))
    text = "Zanthor lives in Oslo. Brisa has a ferret. " * 8
    before, after = (
        learnt(chat_model, told(chat_model, text, policy=policy)).levels[0].adapter.norm()
        for policy in (keeps, decays)
    )
    assert after < before


def test_a_fact_is_practised_alone_and_in_the_assistants_voice(chat_model):
    tokenizer = chat_model.tokenizer
    item = statement(chat_model, "My name is Tamsin.", ["What is my name?"])
    alone, restated, answered = writer(chat_model).replays(item)
    assert tokenizer.decode(alone.ids) == "My name is Tamsin."
    predicted = [
        tokenizer.decode([t for t, wanted in zip(e.ids, e.targets, strict=True) if wanted])
        for e in (restated, answered)
    ]
    assert predicted == ["Your name is Tamsin.<|im_end|>"] * 2
    rendered = tokenizer.decode((*answered.prefix, *answered.ids))
    assert (
        rendered.rstrip()
        == tokenizer.render(
            [
                {"role": "user", "content": "What is my name?"},
                {"role": "assistant", "content": "Your name is Tamsin."},
            ],
            add_generation_prompt=False,
        ).rstrip()
    )


def test_a_text_alone_begins_as_the_model_expects(chat_model, tiny_tokenizer_json):
    asks_for_it = Tokenizer(
        tiny_tokenizer_json,
        eos_tokens=["<|im_end|>"],
        bos_token="<|endoftext|>",
        add_bos=True,
    )
    example = ReplayWriter(asks_for_it, Names(asks_for_it)).plain("hello")
    assert example.ids[0] == asks_for_it.bos_id
    assert example.targets == (False, *(True for _ in example.ids[1:]))
    tokenizer = chat_model.tokenizer
    plain = ReplayWriter(tokenizer, Names(tokenizer)).plain("hello")
    assert plain.ids == tuple(tokenizer.encode("hello"))


def test_a_contrast_is_about_somebody_else_and_stops_where_the_value_begins(chat_model):
    item = statement(chat_model, "Zanthor lives in Oslo.", ["Where does Zanthor live?"])
    contrast = writer(chat_model).contrast(item, random.Random(0))
    assert "Zanthor" not in chat_model.tokenizer.decode(contrast.ids)
    [cut] = up_to_surprise(chat_model, [contrast], row_tokens=128)
    assert contrast.ids[: len(cut.example.ids)] == cut.example.ids
    assert cut.reference.ids_NK.shape[0] == sum(cut.example.targets)


def test_the_frozen_base_does_not_diverge_from_itself(chat_model):
    examples = [
        writer(chat_model).plain("Zanthor lives in Oslo."),
        Example((5, 6, 7), (False, True, True), prefix=(1, 2, 3)),
    ]
    packed = pack(examples, row_tokens=64)
    trainer = LevelTrainer(
        chat_model, SessionMemory.fresh(chat_model.fingerprint, POLICY), 0, Workers(1)
    )
    scores = trainer.scores(packed)
    known = references(chat_model, examples, row_tokens=64)
    for owner, reference in enumerate(known):
        divergence = reference.divergence(scores[packed.owners_N == owner])
        assert torch.allclose(divergence, torch.zeros_like(divergence), atol=1e-5)


def test_an_adapted_model_diverges(chat_model):
    memory = SessionMemory.fresh(chat_model.fingerprint, POLICY)
    adapter = initial(chat_model.config, 4, seed=1)
    strong = replace(adapter, **{k: v + 0.1 for k, v in adapter.tensors().items() if k[-1] == "b"})
    level = replace(memory.levels[0], adapter=strong)
    trainer = LevelTrainer(
        chat_model, replace(memory, levels=(level, memory.levels[1])), 0, Workers(1)
    )
    example = writer(chat_model).plain("Zanthor lives in Oslo.")
    [known] = references(chat_model, [example], row_tokens=64)
    assert known.divergence(trainer.scores(pack([example], row_tokens=64))).mean() > 1e-4


def test_batched_decoding_is_that_of_each_prompt_alone(chat_model):
    tokenizer = chat_model.tokenizer
    prompts = [tuple(tokenizer.encode(text)) for text in ("Zanthor", "The sea is", "a b c d e f")]
    prefix = tuple(tokenizer.encode("Once upon a time. "))
    stop = tokenizer.eos_ids
    together = decode(chat_model, Workers(2), prompts * 9, max_tokens=6, stop=stop, prefix=prefix)
    assert together == together[:3] * 9
    for prompt, reply in zip(prompts, together, strict=False):
        whole = prefix + prompt
        assert decode(chat_model, Workers(1), [whole], max_tokens=6, stop=stop) == [reply]


def test_shares_hold_every_example_once_and_its_gradient(chat_model):
    """The gradient of a step does not depend on how many packs it is cut into."""
    memory = SessionMemory.fresh(chat_model.fingerprint, POLICY)
    forms = [writer(chat_model).replays(statement(chat_model, text)) for text in FACTS.split(". ")]
    examples = [example for form in forms for example in form]
    gradients = []
    for count in (1, 2, 5):
        trainer = LevelTrainer(chat_model, memory, 0, Workers(2))
        shares = share_out(examples, count)
        assert sorted(member for members, _ in shares for member in members) == list(
            range(len(examples))
        )
        packs = [packed for _, packed in shares]

        def loss(index, logits_NV, trainer=trainer, packs=packs):
            return trainer.nats(logits_NV, packs[index]).sum()

        gradients.append(trainer.gradient(loss, packs))
    for other in gradients[1:]:
        for mine, theirs in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_a_sentence_of_two_statements_is_practised_as_two(chat_model):
    memory = learnt(chat_model, told(chat_model, "I'm Tamsin and my dog is called Pip. Hi!"))
    decode = chat_model.tokenizer.decode
    found = {decode(span.ids): [decode(cue) for cue in span.cues] for span in memory.buffer}
    assert list(found) == ["I'm Tamsin", " and my dog is called Pip."]
    assert "What is my name?" in found["I'm Tamsin"]
    assert "What is my dog called?" in found[" and my dog is called Pip."]
    starts = [span.start for span in memory.buffer]
    assert starts[1] == starts[0] + len(memory.buffer[0].ids)


def test_an_introduction_is_answered_by_name(chat_model):
    item = statement(chat_model, "I'm Tamsin.", ["What is my name?"])
    tokenizer = chat_model.tokenizer
    texts = [tokenizer.decode(example.ids) for example in writer(chat_model).replays(item)]
    assert texts[0] == "I'm Tamsin."
    assert all("Your name is Tamsin." in text for text in texts[1:])
    assert len(texts) == 3
