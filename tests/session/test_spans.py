"""Cutting text into spans: the same cuts however the bytes arrive, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.spans import MAX_SPAN_CHARS, SpanReader, split_spans

# Words, ends and gaps that the rules look at, long runs without any, and characters of 1-4 bytes.
WORDS = [
    "word",
    "lower",
    "Upper",
    "Mr.",
    "U.S.",
    "end.",
    "End!",
    "3.14",
    "…",
    '"',
    "é",
    "語。",
    "👩‍👧",
]
GAPS = [" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u2028", "\x00"]
PARTS = st.sampled_from([*WORDS, *GAPS, "x" * 700, "y " * 300])
TEXTS = st.lists(PARTS, max_size=40).map("".join) | st.text(max_size=200)


def read(pieces: list[bytes], *, restart: bool = False) -> list[str]:
    """Spans of the pieces; with `restart`, every piece meets a reader made from the last tail."""
    reader, spans = SpanReader(), []
    for piece in pieces:
        spans += reader.feed(piece)
        if restart:
            reader = SpanReader(reader.tail)
    return spans + reader.feed(b"", final=True)


@given(TEXTS)
def test_joined_spans_are_the_text(text: str) -> None:
    spans = split_spans(text)
    assert "".join(spans) == text
    assert all(0 < len(span) <= MAX_SPAN_CHARS for span in spans)


@given(TEXTS, st.data(), st.booleans())
def test_spans_do_not_depend_on_the_pieces(text: str, data: st.DataObject, restart: bool) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    pieces = [raw[i:j] for i, j in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert read(pieces, restart=restart) == split_spans(text)


@given(TEXTS, st.integers(1, 50))
def test_the_tail_is_bounded_and_holds_what_no_span_has(text: str, size: int) -> None:
    reader, out, raw = SpanReader(), "", text.encode()
    for start in range(0, len(raw), size):
        out += "".join(reader.feed(raw[start : start + size]))
        assert len(reader.tail) <= 4 * MAX_SPAN_CHARS + 3
    assert out.encode() + reader.tail == raw


@given(TEXTS, st.sampled_from([b"\xff", b"\xc3(", b"\xe2\x82(", b"\xed\xa0\x80", b"\xf5"]))
def test_bytes_that_are_not_utf8_are_refused_and_change_nothing(text: str, bad: bytes) -> None:
    reader = SpanReader()
    reader.feed(text.encode())
    tail = reader.tail
    at = len(text.encode())
    with pytest.raises(InvalidRequestError, match=f"UTF-8: byte {at} cannot be") as caught:
        reader.feed(bad + b" and more")
    assert caught.value.field == "chunk"
    assert reader.tail == tail


def test_a_character_that_never_ends_is_refused_at_the_end_only() -> None:
    reader = SpanReader()
    assert reader.feed("é".encode()[:1]) == []
    with pytest.raises(InvalidRequestError, match="not valid UTF-8"):
        reader.feed(b"", final=True)
    assert reader.feed("é".encode()[1:], final=True) == ["é"]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("One. Two.", ["One.", " Two."]),
        ('She said "no." He left.', ['She said "no."', " He left."]),
        ("Mr. Smith met Dr. Jones.", ["Mr. Smith met Dr. Jones."]),
        ("The U.S. Navy, e.g. ships. Many.", ["The U.S. Navy, e.g. ships.", " Many."]),
        ("a. lower case goes on", ["a. lower case goes on"]),
        ("Title\nA line", ["Title", "\nA line"]),
        ("Paragraph\n\nnext", ["Paragraph", "\n\nnext"]),
        ("日本語。 次の文。", ["日本語。", " 次の文。"]),
        ("x" * 1500, ["x" * 1024, "x" * 476]),
        ("wrapped " * 8 + "line\ngoes on here", ["wrapped " * 8 + "line\ngoes on here"]),
        ("   ", ["   "]),
        ("", []),
    ],
)
def test_cuts_fall_where_a_reader_would_put_them(text: str, spans: list[str]) -> None:
    assert split_spans(text) == spans


def test_tokens_of_the_spans_are_the_tokens_of_the_whole(base_model: BaseModel) -> None:
    encode = base_model.tokenizer.encode
    text = (
        "Dr. Vale lives in Aldmoor.  She keeps 12 bees!\n\nHer brother, however, does not.\n"
        'Title\n"Why?" he asked… Because 3.14 is "enough." She laughed:\tha.\r\nEnd.'
    )
    spans = split_spans(text)
    assert len(spans) > 5
    assert [token for span in spans for token in encode(span)] == encode(text)
