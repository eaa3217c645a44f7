"""A small tokenizer of our own for instructions, object positions and progress: deterministic, nothing to download.

Pieces: words of the vocabulary; a position "(83, 16, 27)" as one piece for each axis; whole numbers below 100; and
bytes for everything else, so that any text encodes and different texts encode differently.
"""

import re
import warnings

import numpy as np

PAD, END = 0, 1
_BYTES = 2  # first of 256 byte pieces
_NUMBER_COUNT = 100
NUMBERS = tuple(_BYTES + 256 + _NUMBER_COUNT * run for run in range(4))  # first token of: plain numbers, x, y, z
_RUNS = ("", "x", "y", "z")

# Words that instructions of table-top manipulation use; others fall back to bytes. Order is part of the weights: only append.
WORDS = tuple(
    """
    a an the and or of in on at to from into onto with by for over under above below beside between behind near inside outside
    up down left right front back top bottom middle center centre side edge corner first second third both one two three
    task progress done start object place put move pick take grab grasp hold lift raise lower set lay drop release give hand pass
    open close shut pull push slide turn rotate twist flip tilt pour stir wipe fold unfold insert remove stack unstack hang
    screw unscrew press lock unlock plug unplug throw recycle sort clean arrange align reach touch return transfer exchange
    drawer drawers caddy compartment compartments container box bin basket tray rack shelf cabinet door lid handle knob table
    plate plates bowl bowls cup cups mug mugs glass bottle bottles can cans jar pot pan kettle spoon fork knife spatula whisk
    opener screwdriver wrench hammer pliers scissors pen pens pencil marker magnifier tape ruler eraser stapler notebook book
    banana apple orange lemon pear bread egg tomato carrot food fruit toy block blocks cube cylinder ball peg hole ring rope cloth
    towel shirt sponge battery cable socket remote phone key bag napkin lego brick domino dice tool tools
    red green blue yellow orange purple pink brown black white gray grey silver gold big small large long short tall wooden metal
    arm arms gripper wrist robot it its that this then after before while until not all other each
    """.split()
)
_PIECES = ["<pad>", "<end>", *(f"<0x{value:02x}>" for value in range(256))]
_PIECES += [f"{run}{number}" for run in _RUNS for number in range(_NUMBER_COUNT)]
_PIECES += list(dict.fromkeys(WORDS))
_IDS = {piece: index for index, piece in enumerate(_PIECES)}

_NUMBER = r"(0|[1-9]\d?)"
_PATTERN = re.compile(rf"\({_NUMBER}, {_NUMBER}, {_NUMBER}\)|\d+|[a-z]+|\S")


class Tokenizer:
    """Turns text into tokens; 0 is padding, 1 the end."""

    vocabulary_size = len(_PIECES)

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text, in order, without the end; case and the amount of white space do not count."""
        found = []
        for match in _PATTERN.finditer(" ".join(text.lower().split())):
            found += _split(match)
        return found

    def count(self, text: str) -> int:
        """Tokens a text takes, with its end."""
        return len(self.pieces(text)) + 1

    def encode(self, text: str, length: int) -> np.ndarray:
        """Tokens of a text, (length,) int32, its end, then padding.

        Text that does not fit loses whole clauses (between commas), from the last but one backwards, with a warning: the
        instruction and the task progress stay. Raises ValueError if those two do not fit either.
        """
        pieces = self.pieces(text)
        if len(pieces) + 1 > length:
            pieces = self._shorten(pieces, length)
        ids = [_IDS[piece] for piece in pieces] + [END]
        return np.asarray(ids + [PAD] * (length - len(ids)), np.int32)

    def _shorten(self, pieces: list[str], length: int) -> list[str]:
        comma = f"<0x{ord(','):02x}>"
        clauses = _clauses(pieces, comma)
        before, dropped = len(pieces) + 1, 0
        while len(pieces) + 1 > length and len(clauses) > 2:
            del clauses[-2]
            dropped += 1
            pieces = [piece for clause in clauses for piece in (*clause, comma)][:-1]
        if len(pieces) + 1 > length:
            raise ValueError(f"text of {before} tokens does not fit {length}, not even its first and last clause; raise the text length")
        warnings.warn(f"text of {before} tokens does not fit {length}: {dropped} clauses before the last left out", stacklevel=3)
        return pieces


def _split(match: re.Match) -> list[str]:
    if match.group(1) is not None:
        return [f"{run}{number}" for run, number in zip(_RUNS[1:], match.groups(), strict=True)]
    word = match.group(0)
    if word in _IDS and (word.isdigit() or word.isalpha()):
        return [word]
    ending = b" " if word.isalnum() else b""  # where an unknown word ends, so that "ab c" differs from "abc"
    return [f"<0x{value:02x}>" for value in word.encode() + ending]


def _clauses(pieces: list[str], comma: str) -> list[list[str]]:
    clauses: list[list[str]] = [[]]
    for piece in pieces:
        if piece == comma:
            clauses.append([])
        else:
            clauses[-1].append(piece)
    return clauses
