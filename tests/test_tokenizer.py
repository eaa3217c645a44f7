"""Tokenizer: what becomes one piece, that different texts differ, and what happens to text that does not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamp_jax.models.tokenizer import END, NUMBERS, PAD, WORDS, Tokenizer

PROMPT = "place the can opener in the left compartment of the caddy, can opener (83, 16, 27), pen (8, 40, 0), task progress 65"
TOKENIZER = Tokenizer()


def test_pieces_of_the_papers_example():
    assert TOKENIZER.pieces("the Can  opener (83, 16, 27), task progress 65") == [
        "the", "can", "opener", "x83", "y16", "z27", "<0x2c>", "task", "progress", "65",
    ]  # fmt: skip


def test_tokens_end_and_are_padded():
    tokens = TOKENIZER.encode(PROMPT, 40)
    count = TOKENIZER.count(PROMPT)
    assert tokens.dtype == np.int32 and tokens[count - 1] == END
    assert np.all(tokens[count:] == PAD) and not np.any(np.isin(tokens[: count - 1], [PAD, END]))
    assert tokens.max() < TOKENIZER.vocabulary_size


def test_numbers_are_consecutive_from_their_runs_start():
    for run, text in enumerate(["{}", "({}, 3, 4)", "(3, {}, 4)", "(3, 4, {})"]):
        place = max(run - 1, 0)
        found = [TOKENIZER.encode(text.format(value), 8)[place] for value in (0, 9, 10, 99)]
        assert found == [NUMBERS[run] + value for value in (0, 9, 10, 99)]


def test_vocabulary_has_no_duplicates():
    assert len(set(WORDS)) == len(set(TOKENIZER.pieces(" ".join(WORDS))))
    assert all(len(TOKENIZER.pieces(word)) == 1 for word in WORDS)


_TEXT = st.text(alphabet=st.sampled_from("ab1207(),-é drawe pick (3, 4, 5) ×"), max_size=24)


@given(_TEXT, _TEXT)
def test_texts_differ_exactly_if_their_pieces_do(first, second):
    same = " ".join(first.lower().split()) == " ".join(second.lower().split())
    if same:
        assert TOKENIZER.pieces(first) == TOKENIZER.pieces(second)
    elif first.lower().replace(" ", "") != second.lower().replace(" ", ""):  # white space next to punctuation does not count
        assert TOKENIZER.pieces(first) != TOKENIZER.pieces(second)


def test_unknown_words_do_not_run_together():
    assert TOKENIZER.pieces("zz zq") != TOKENIZER.pieces("zzzq")
    assert TOKENIZER.pieces("12 345") != TOKENIZER.pieces("12345")


def test_long_text_loses_objects_from_the_end_and_keeps_the_progress():
    with pytest.warns(UserWarning, match="1 clauses before the last left out"):
        found = TOKENIZER.encode(PROMPT, 22)
    short = "place the can opener in the left compartment of the caddy, can opener (83, 16, 27), task progress 65"
    np.testing.assert_array_equal(found, TOKENIZER.encode(short, 22))


def test_text_that_cannot_be_shortened_is_refused():
    with pytest.raises(ValueError, match="does not fit 8, not even its first and last clause"):
        TOKENIZER.encode(PROMPT, 8)
