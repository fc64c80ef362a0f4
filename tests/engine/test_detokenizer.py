"""Text of a reply as it comes: whole characters, stop strings across tokens, nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hope_runtime.engine.detokenizer import TextStream

TEXTS = st.text(alphabet="ab<|é語👩", max_size=30) | st.text(max_size=20)


def split(data: st.DataObject, raw: bytes) -> list[bytes]:
    """The bytes as tokens, cut anywhere: within characters too."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=20)))
    return [raw[i:j] for i, j in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def stream(tokens: list[bytes], stop: tuple[str, ...] = ()) -> tuple[TextStream, list[str]]:
    text = TextStream(tokens.__getitem__, stop)
    parts = [text.push(index) for index in range(len(tokens))]
    return text, [*parts, text.finish()]


@given(TEXTS, st.data())
def test_parts_are_whole_characters_and_join_to_the_text(text: str, data: st.DataObject) -> None:
    result, parts = stream(split(data, text.encode()))
    assert "".join(parts) == result.text == text
    assert not result.stopped


@given(TEXTS, st.data())
def test_every_part_is_as_long_as_it_can_be_without_stops(text: str, data: st.DataObject) -> None:
    tokens = split(data, text.encode())
    _, parts = stream(tokens)
    for count in range(1, len(tokens)):
        certain = b"".join(tokens[:count]).decode(errors="ignore")
        assert "".join(parts[:count]) == certain


@given(
    st.text(alphabet="abc", max_size=20),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.data(),
)
def test_a_reply_ends_before_a_stop_string_wherever_tokens_are_cut(
    text: str, stop: list[str], data: st.DataObject
) -> None:
    result, parts = stream(split(data, text.encode()), tuple(stop))
    assert "".join(parts) == result.text
    assert result.stopped == any(s in text for s in stop)
    if result.stopped:
        assert text.startswith(result.text)
        assert any(text.startswith(s, len(result.text)) for s in stop)
        assert not any(s in result.text for s in stop)
    else:
        assert result.text == text


def test_one_stop_string_is_cut_at_its_first_place() -> None:
    result, parts = stream([b"say E", b"N", b"D", b" and EN", b"D"], ("END",))
    assert parts == ["say ", "", "", "", "", ""]
    assert result.stopped


def test_what_only_looked_like_a_stop_string_comes_out() -> None:
    result, parts = stream([b"E", b"N", b"x", b"EN"], ("END",))
    assert parts == ["", "", "ENx", "", "EN"]
    assert not result.stopped


def test_broken_characters_become_replacement_characters() -> None:
    _, parts = stream([b"a\xe8\xaa", b"b", b"\xf0\x9f"])
    assert "".join(parts) == "a\ufffdb\ufffd"
