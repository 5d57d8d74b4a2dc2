"""Clean-up and UTF-8 over growing input, against the whole input at once."""

from hypothesis import given
from hypothesis import strategies as st

from workers.tokenizers.cleanup import RULES, CleanUpStream, clean_up
from workers.tokenizers.utf8 import REPLACEMENT, Utf8Stream

pieces = st.lists(
    st.one_of(st.sampled_from([old for old, _ in RULES]), st.text(alphabet=" .?!,'nmtsvera", max_size=6)), max_size=12
)


def test_clean_up_joins_punctuation_and_short_forms():
    assert clean_up("Is it ok ? No , it is n't ! I 'm here .") == "Is it ok? No, it isn't! I'm here."


@given(pieces)
def test_clean_up_of_a_growing_text_equals_that_of_the_whole(parts):
    stream = CleanUpStream()
    text = "".join([stream.push(part) for part in parts]) + stream.flush()
    assert text == clean_up("".join(parts))


def test_clean_up_holds_back_only_what_may_change():
    stream = CleanUpStream()
    assert stream.push("well") == "well"
    assert stream.push(" ") == ""
    assert stream.push("x") == " x"
    assert stream.push(" ") + stream.push("'") == ""
    assert stream.push("tis") == " 'tis"
    assert stream.flush() == ""


@given(st.lists(st.binary(max_size=5), max_size=8))
def test_broken_sequences_are_replaced_as_python_does(parts):
    stream = Utf8Stream(replaces_each_byte=False)
    text = "".join([stream.push(part) for part in parts]) + stream.flush()
    assert text == b"".join(parts).decode(errors="replace")


@given(st.text(alphabet="aé你😀\ufffd", max_size=10).map(str.encode))
def test_characters_come_out_as_soon_as_they_are_complete(data):
    stream = Utf8Stream(replaces_each_byte=True)
    text = ""
    for size in range(1, len(data) + 1):
        text += stream.push(data[size - 1 : size])
        assert text == data[:size].decode(errors="ignore")
    assert stream.flush() == ""


def test_each_broken_byte_can_be_replaced_by_itself():
    stream = Utf8Stream(replaces_each_byte=True)
    assert stream.push(b"\xe4\xbd") == ""
    assert stream.push(b"a\xff\xf0\x9f\x98") == REPLACEMENT * 2 + "a" + REPLACEMENT
    assert stream.flush() == REPLACEMENT * 3
