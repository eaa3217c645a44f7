"""What a compiled program sends between devices, read from its HLO text."""

import math
import re
from collections import Counter

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64}
BITS |= {"f8e4m3fn": 8, "f8e5m2": 8, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "token": 0}

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def sent_bytes(hlo: str, devices: int) -> dict[str, float]:
    """Bytes that one of so many devices sends, by kind of collective, each done in the way that sends least.

    What a while loop holds counts as often as it runs; of a conditional both sides count. Raises ValueError for a loop with a
    collective whose number of turns XLA does not know.
    """
    computations, entry = parse(hlo)
    done: dict[str, Counter] = {}

    def count(name: str) -> Counter:
        if name not in done:
            done[name] = Counter()
            for shape, operation, rest in computations[name]:
                done[name].update(_own(shape, operation, rest, devices))
                _add_called(done[name], operation, rest)
        return done[name]

    def _add_called(total: Counter, operation: str, rest: str) -> None:
        names = _CALLED.findall(rest) + [name.strip(" %") for found in _BRANCHES.findall(rest) for name in found.split(",")]
        inside = sum((count(name) for name in names if name in computations), Counter())
        if operation == "while" and inside:
            trips = _TRIPS.search(rest)
            if not trips:
                raise ValueError(f"a loop with {', '.join(inside)} in it has no known number of turns: {rest[:200]}")
            inside = Counter({kind: value * int(trips[1]) for kind, value in inside.items()})
        total.update(inside)

    return dict(count(entry))


def parse(hlo: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    """(shape, operation, what follows) of every line of each computation, and the entry's name."""
    computations: dict[str, list[tuple[str, str, str]]] = {}
    entry, lines = "", []
    for line in map(str.strip, hlo.splitlines()):
        head = _HEAD.match(line)
        if head and " = " not in line.split("(")[0]:
            lines = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif found := _LINE.match(line):
            lines.append(found.groups())
    if not entry:
        raise ValueError("no ENTRY computation; expected the text of a compiled HLO module")
    return computations, entry


def _own(shape: str, operation: str, rest: str, devices: int) -> dict[str, float]:
    kind = operation.removesuffix("-start")
    if kind not in KINDS or devices == 1:
        return {}
    if operation.endswith("-start") and kind in ("all-gather", "collective-permute"):
        shape = shape.strip("()").split("), (")[-1] if "((" in shape else _result(shape)
    size, share = shape_bytes(shape), (devices - 1) / devices
    factor = {"all-reduce": 2 * share, "reduce-scatter": devices * share, "collective-permute": 1.0}.get(kind, share)
    return {kind: factor * size}


def _result(shape: str) -> str:
    """Of an asynchronous collective's (operand, result, ...) the result."""
    found = _ARRAY.findall(shape)
    return "{}[{}]".format(*found[1]) if len(found) > 1 else shape


def shape_bytes(shape: str) -> int:
    """Bytes of an array or a tuple of arrays, written as HLO writes them: "(f32[4,16]{1,0}, u8[3]{0})"."""
    arrays = [(BITS[kind], sizes) for kind, sizes in _ARRAY.findall(shape) if kind in BITS]
    return sum(bits * math.prod(map(int, filter(None, sizes.split(",")))) for bits, sizes in arrays) // 8


def square_matrices(hlo: str, rows: int) -> list[str]:
    """Types of float and boolean arrays of exactly (rows, rows) in a program: a matrix of all pairs of rows is one of them."""
    kinds = {kind for kind, sizes in _ARRAY.findall(hlo) if sizes == f"{rows},{rows}"}
    return sorted(f"{kind}[{rows},{rows}]" for kind in kinds & {"f64", "f32", "bf16", "f16", "pred"})
