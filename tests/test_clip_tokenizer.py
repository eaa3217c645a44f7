"""CLIP's vocabulary: start and end, texts that do not fit, and how many of 77 tokens the sentences of every task take.

The counts are printed (pytest -s) with the vocabulary that they were made with: the recorded part of CLIP's own, whose tokens for
these texts are CLIP's; and a user's, from the folder that CLAMP_CLIP names.
"""

import builtins
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from task_prompts import FIXTURE, LENGTH, PUBLISHED, count, episodes, recorded_folder, texts

from clamp_jax.data.prompts import fitting_prompt
from clamp_jax.models.attention import TransformerConfig
from clamp_jax.models.clip import ClipTokenizer, check_tokenizer, read_text
from clamp_jax.models.text_encoder import TextEncoder, TextEncoderConfig

DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return recorded_folder(tmp_path_factory.mktemp("vocabulary"), tuple(texts()))


@pytest.fixture(scope="module")
def recorded(folder) -> ClipTokenizer:
    return ClipTokenizer(folder)


@pytest.fixture(scope="module")
def own() -> Path:
    """The user's own CLIP."""
    if not os.environ.get("CLAMP_CLIP"):
        pytest.skip("needs a public CLIP: set CLAMP_CLIP to the folder of its model.safetensors and tokenizer.json (docs/models.md)")
    return Path(os.environ["CLAMP_CLIP"])


def test_start_pieces_end_and_padding(recorded):
    found = recorded.encode("place  The\ncan opener (83, 16, 27), task progress 5", 24)
    numbers = json.loads(FIXTURE.read_text())["tokenizer"]["model"]["vocab"]
    words = ["place", "the", "can", "opener", "(", "8", "3", ",", "1", "6", ",", "2", "7", "),", "task", "progress", "5"]
    assert found.dtype == np.int32
    assert found.tolist() == [49406, *(numbers[word + "</w>"] for word in words), 49407, 0, 0, 0, 0, 0]
    assert (recorded.start, recorded.end, recorded.vocabulary_size) == (49406, 49407, 49408)


def test_the_published_example(recorded):
    tokens = recorded.encode(PUBLISHED, LENGTH)
    used = recorded.count(PUBLISHED)
    assert tokens[used - 1] == recorded.end and not np.any(tokens[used:]) and tokens.shape == (LENGTH,)
    print(f"\nthe paper's example with its two objects: {used} tokens of {LENGTH}")
    assert used == recorded.count(PUBLISHED.replace(", screwdriver (83, 40, 27)", "")) + 11


@pytest.mark.parametrize("which", ["recorded part of CLIP's own vocabulary", "vocabulary of CLAMP_CLIP"])
def test_every_task_keeps_instruction_and_progress(which, request):
    own = which == "vocabulary of CLAMP_CLIP"
    tokenizer = ClipTokenizer(request.getfixturevalue("own" if own else "folder"))
    found = []
    for name, episode in episodes():
        counted, text, tokens, warned = count(name, episode, tokenizer)
        assert text.startswith(episode.instruction + ", ") and text.endswith(", task progress 50")
        np.testing.assert_array_equal(tokens, tokenizer.encode(text, LENGTH))
        assert tokens.shape == (LENGTH,) and tokens[counted.used - 1] == tokenizer.end
        assert counted.least <= counted.used <= min(counted.whole, LENGTH)
        assert counted.left_out == episode.object_names[len(episode.object_names) - len(counted.left_out) :], "from the end"
        assert len(warned) == bool(counted.left_out) and all(f"{len(counted.left_out)} of " in text for text in warned)
        found.append(counted)
    show(which, found)
    assert max(counted.least for counted in found) <= LENGTH
    assert own or all(row(counted) in DOCUMENT.read_text() for counted in found), "docs/models.md has other counts"


def show(which: str, found: list) -> None:
    print(f"\ntokens of {LENGTH}, counted with the {which}; largest {max(counted.whole for counted in found)}")
    print("\n".join(dict.fromkeys(map(row, found))))


def row(counted) -> str:
    """A line of the table in docs/models.md."""
    return f"| {counted.task} | {counted.least} | {counted.whole} | {counted.used} | {', '.join(counted.left_out) or 'none'} |"


def test_a_word_that_the_recorded_part_lacks_is_noticed(tmp_path, recorded):
    with pytest.raises(AssertionError, match=r"does not know \['aardvark'\]; record again"):
        recorded_folder(tmp_path, ("put the aardvark",))
    with pytest.raises(ValueError, match="a character that the vocabulary lacks"):
        recorded.count("put the ¥")


@pytest.mark.filterwarnings("ignore")  # of packages that the project does not use
def test_the_recorded_part_gives_the_tokens_of_the_whole_vocabulary(recorded):
    open_clip = pytest.importorskip("open_clip.tokenizer", reason="needs CLIP's whole vocabulary: pip install open_clip_torch")
    whole = open_clip.SimpleTokenizer()
    for text in texts():
        ids = recorded.encode(text, 100)
        assert ids[1 : recorded.count(text) - 1].tolist() == whole.encode(text), text


def test_a_text_that_does_not_fit_loses_clauses_and_never_its_end(recorded):
    used = recorded.count(PUBLISHED)
    with pytest.warns(UserWarning, match=f"text of {used} tokens does not fit {used - 1}: 1 clauses before the last left out"):
        found = recorded.encode(PUBLISHED, used - 1)
    short = PUBLISHED.replace(", screwdriver (83, 40, 27)", "")
    np.testing.assert_array_equal(found, recorded.encode(short, used - 1))
    with pytest.raises(ValueError, match="does not fit 12, not even its first and last clause"):
        recorded.encode(PUBLISHED, 12)


def test_marks_in_a_text_are_refused(recorded):
    for mark in ("<|endoftext|>", "<|startoftext|>"):
        with pytest.raises(ValueError, match="take it out"):
            recorded.encode(f"open the {mark} drawer", LENGTH)


def test_it_can_be_pickled_and_used_from_threads(recorded):
    wanted = [recorded.encode(text, 100) for text in texts()]
    copy = pickle.loads(pickle.dumps(recorded))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: copy.encode(text, 100), list(texts()) * 4))
    np.testing.assert_array_equal(found, wanted * 4)


def test_token_0_which_is_a_sign_of_clips_counts_in_prompts(folder, tmp_path):
    """CLIP's token 0 is "!" inside of a piece, and also what texts are padded with."""
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"]["!"] = 0
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer, options = ClipTokenizer(tmp_path), {"names": (), "positions_m": np.zeros((0, 3)), "progress": 0.5}
    text, tokens = fitting_prompt("the !!!", **options, tokenize=tokenizer.encode, length=11)
    assert text == "the !!!, task progress 50" and tokens[2:5].tolist() == [0, 0, 0] and tokens[-1] == tokenizer.end
    with pytest.raises(ValueError, match="takes 11 tokens, the limit is 10"):
        fitting_prompt("the !!!", **options, tokenize=tokenizer.encode, length=10)


def test_folders_without_clips_vocabulary_are_refused(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="tokenizer.json is not there; a public folder of CLIP holds it"):
        ClipTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json is no vocabulary that tokenizers reads"):
        ClipTokenizer(tmp_path)
    document = json.loads((folder / "tokenizer.json").read_text())
    document |= {"added_tokens": [], "post_processor": None}
    del document["model"]["vocab"]["<|startoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"is not CLIP's vocabulary: it lacks <\|startoftext\|>"):
        ClipTokenizer(tmp_path)


def test_a_vocabulary_of_other_weights_is_refused(recorded):
    config = TextEncoderConfig(TransformerConfig(8, 1, 1), vocabulary=49408, end_token=49407)
    check_tokenizer(recorded, config)
    for wrong in ({"vocabulary": 40000}, {"end_token": 2}):
        with pytest.raises(ValueError, match="has 49408 tokens and ends texts with 49407; the weights take"):
            check_tokenizer(recorded, config._replace(**wrong))


def test_without_the_package_the_error_says_what_to_install(folder, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "tokenizers":
            raise ImportError("No module named 'tokenizers'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'clamp-jax\[clip\]'"):
        ClipTokenizer(folder)


def test_a_users_own_clip_loads_with_its_vocabulary(own):
    text, tokenizer = read_text(own), ClipTokenizer(own)
    check_tokenizer(tokenizer, text.config)
    tokens = np.stack([tokenizer.encode(sentence, text.config.length) for sentence in (PUBLISHED, "open the drawer")])
    pooled = np.asarray(TextEncoder(text.config).apply({"params": text.params}, tokens)) @ text.projection
    assert np.isfinite(pooled).all() and np.abs(pooled[0] - pooled[1]).max() > 0.1
    print(f"\n{own}: {text.config}, sha256 {text.sha256}")
