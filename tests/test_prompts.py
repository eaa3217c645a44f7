"""Prompts: the published example, integers over the bounds, and the progress that is never cut off."""

import numpy as np
import pytest
import synthetic

from clamp_jax.data.prompts import fitting_prompt, leaving_order, object_order, prompt, quantise
from clamp_jax.models.tokenizer import Tokenizer

LOW, HIGH = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
INSTRUCTION = "place the can opener in the left compartment of the caddy"
NAMES = ("can opener", "screwdriver")
POSITIONS = np.array([[0.835, 0.165, 0.275], [0.835, 0.405, 0.275]])


def test_the_published_example():
    text = prompt(INSTRUCTION, NAMES, POSITIONS, 0.65, low=LOW, high=HIGH)
    assert text == f"{INSTRUCTION}, can opener (83, 16, 27), screwdriver (83, 40, 27), task progress 65"


def test_numbers_are_0_to_99_at_the_bounds_and_beyond():
    low, high = (-0.6, -0.4, 0.0), (0.6, 0.4, 0.8)
    corners = np.array([low, high, (0.0, 0.0, 0.4), (-9.0, 9.0, 0.0)])
    np.testing.assert_array_equal(quantise(corners, low, high), [[0, 0, 0], [99, 99, 99], [50, 50, 50], [0, 99, 0]])
    assert [prompt("a", (), np.zeros((0, 3)), p) for p in (0.0, np.float32(0.65), 1.0)] == [f"a, task progress {n}" for n in (0, 65, 99)]


@pytest.mark.parametrize("tokenize", [synthetic.tokenize, Tokenizer().encode])
def test_objects_are_left_out_from_the_end_and_the_progress_stays(tokenize):
    names, positions = tuple(f"cup {i}" for i in range(9)), np.full((9, 3), 0.5)
    options = {"tokenize": tokenize, "low": LOW, "high": HIGH}
    whole, tokens = fitting_prompt("stack", names, positions, 0.42, length=500, **options)
    assert whole == prompt("stack", names, positions, 0.42, low=LOW, high=HIGH)
    count = int(np.count_nonzero(tokens))
    assert fitting_prompt("stack", names, positions, 0.42, length=count, **options)[0] == whole, "an exact fit loses nothing"
    with pytest.warns(UserWarning, match="1 of 9 objects left out to keep the progress"):
        text, short = fitting_prompt("stack", names, positions, 0.42, length=count - 1, **options)
    assert text == prompt("stack", names[:8], positions[:8], 0.42, low=LOW, high=HIGH)
    np.testing.assert_array_equal(short, tokenize(text, count - 1))
    with pytest.raises(ValueError, match="the limit is 3; shorten the instruction"):
        fitting_prompt("stack", names, positions, 0.42, length=3, **options)


def test_objects_that_the_instruction_names_are_left_out_last():
    names = ("mug", "plate", "pen", "cup", "banana")
    assert leaving_order("place the Mug on the plate", names) == [4, 3, 2, 1, 0]
    shuffled = ("pen", "plate", "banana", "cup", "mug")
    assert leaving_order("place the mug on the plate", shuffled) == [3, 2, 0, 4, 1]
    positions = np.full((5, 3), 0.5)
    short = len(prompt("place the mug on the plate", ("pen", "plate", "mug"), positions[:3], 0.42, low=LOW, high=HIGH))
    with pytest.warns(UserWarning, match="2 of 5 objects left out"):
        options = {"tokenize": synthetic.tokenize, "length": short, "low": LOW, "high": HIGH}
        text, _ = fitting_prompt("place the mug on the plate", shuffled, positions, 0.42, **options)
    assert text == prompt("place the mug on the plate", ("pen", "plate", "mug"), positions[:3], 0.42, low=LOW, high=HIGH)


def test_order_of_objects_follows_the_seed():
    assert object_order(5, None).tolist() == [0, 1, 2, 3, 4]
    assert object_order(5, (1, 2)).tolist() == object_order(5, (1, 2)).tolist()
    assert len({tuple(object_order(5, s)) for s in range(20)}) > 10
    assert sorted(object_order(5, 3).tolist()) == [0, 1, 2, 3, 4]


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="2 names and 1 positions"):
        prompt("a", NAMES, POSITIONS[:1], 0.5)
    with pytest.raises(ValueError, match="progress is 65"):
        prompt("a", NAMES, POSITIONS, 65)
    with pytest.raises(ValueError, match="expected low < high"):
        quantise(POSITIONS, HIGH, LOW)
    with pytest.raises(ValueError, match="expected finite world positions"):
        quantise(POSITIONS * np.nan, LOW, HIGH)
