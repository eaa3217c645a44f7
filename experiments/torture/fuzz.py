"""Wrong and right messages to a policy server in a process of its own: it answers each, rightly, and goes on.

A case is made of the seed and its number alone, so that a finding is repeated by `make_case(number, seed, target)`.
"""

import re
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.deploy import loader, protocol, request
from clamp_jax.structs import CAMERAS
from experiments import serve
from experiments.torture import damage, frames, messages

CLIENTS = 4
PENDING = 3  # of the server: fewer than the clients, so that some are told that it is busy
VALID = 24  # requests whose answers are known
MOST = 0.01  # of growth
RESIDENT, IN_USE = "process_resident_memory_bytes", "clamp_memory_in_use_bytes"  # metrics; the latter: a leak that fits into the reserve
JUDGED_FROM = 10_000  # cases: a process that has just started still grows
BAD_AT_MOST = 20  # findings after which it stops
_ERROR = re.compile(r"[0-9a-f]{8}: (?P<kind>(busy|late): request \S.*: )?.", re.DOTALL)
_PATHS = ("/", "/healthz", "/readyz", "/metrics", "/../../etc/passwd", "/?" + "x" * 9_000, "//", "/%00")


class Target(NamedTuple):
    """A server and what is known of it."""

    host: str
    port: int
    spec: dict
    valid: list[tuple[dict, np.ndarray]]  # requests as trees (messages.tree), and the actions (50, 14) that the policy gives


class Case(NamedTuple):
    """What is sent to the server, and what may come of it."""

    kind: str
    about: str
    data: bytes
    actions: np.ndarray | None = None  # must be answered with these; None: with an answer or a refusal
    reply: bool = True  # False: broken frames, after which it may only close, or wait for the rest
    raw: bool = False  # instead of a handshake


class Tally:
    """What came of the cases, counted by several threads."""

    def __init__(self, count: int):
        self.outcomes, self.bad = Counter(), []
        self.done, self._next, self._count, self._lock = 0, 0, count, threading.Lock()

    def take(self) -> int | None:
        """The number of the next case, None when there are no more or too much was found."""
        with self._lock:
            if self._next >= self._count or len(self.bad) >= BAD_AT_MOST:
                return None
            self._next += 1
            return self._next - 1

    def add(self, number: int, case: Case, outcome: str, wrong: str | None) -> None:
        """Count a case; `wrong`: what should not have come of it."""
        with self._lock:
            self.done += 1
            self.outcomes[f"{case.kind} {outcome}"] += 1
            if wrong:
                self.bad.append(f"case {number} ({case.kind}: {case.about}): {wrong}"[:400])


def torture(folder: Path, count: int, *, seed: int = 0) -> dict[str, Any]:
    """Send so many messages to the server of a small artifact that is made in `folder`; plain values.

    The growth is that of the server's resident memory from the tenth after a warm-up (a tenth) to the last tenth; that of what malloc
    has given out, which fills the server's reserve first, is set against the same.
    """
    artifact, log = damage.make_artifact(folder / "artifact").folder, folder / "server.log"
    valid = known_answers(loader.load_artifact(artifact))
    options = ("--pending", str(PENDING), "--max-batch", "2", "--log-format", "json")  # a small batch: less to compile
    tally, started = Tally(count), time.monotonic()
    with serve.server_process(artifact, log=log, options=options) as url:
        host, port = url.removeprefix("ws://").split(":")
        target = Target(host, int(port), loader.read_spec(artifact), valid)
        samples = _run(target, tally, seed)
        failed = _value(_metrics(target), 'clamp_requests_total{outcome="failed"}')
    tracebacks = log.read_text().count("Traceback")
    grown = growth(samples, count)
    still = max(grown["growth"], grown["in_use_growth"]) < MOST
    good = not tally.bad and not failed and not tracebacks and tally.done == count and still
    found = {"messages": tally.done, "outcomes": dict(sorted(tally.outcomes.items())), "bad": tally.bad, "tracebacks": tracebacks}
    return found | grown | {"failed": failed, "seconds": round(time.monotonic() - started, 1), "good": good}


def _run(target: Target, tally: Tally, seed: int) -> list[tuple[int, float, float]]:
    """All cases; (cases done, resident bytes of the server, bytes in use) over the time."""
    threads = [threading.Thread(target=_client, args=(target, tally, seed)) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    samples = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        text = _metrics(target)
        samples.append((tally.done, _value(text, RESIDENT), _value(text, IN_USE)))
    return samples


def growth(samples: list[tuple[int, float, float]], count: int) -> dict[str, Any]:
    """Of samples (cases done, bytes, bytes in use): the last tenth's medians against those of the first after the warm-up.

    Nothing is judged of a short run.
    """
    kept = np.array([sizes for done, *sizes in samples if done >= 0.1 * count]) / 1e6
    if count < JUDGED_FROM or not len(kept):
        return {"growth": 0.0, "in_use_growth": 0.0}
    tenth = max(1, len(kept) // 10)
    (first, first_live), (last, last_live) = (np.median(part, 0).tolist() for part in (kept[:tenth], kept[-tenth:]))
    grown = {"growth": last / first - 1, "in_use_growth": (last_live - first_live) / first}
    tenths = {name: kept[::tenth, i].round(1).tolist() for i, name in enumerate(("mb", "in_use_mb"))}
    return grown | {"first_mb": first, "last_mb": last} | tenths


def _metrics(target: Target) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{target.host}:{target.port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def _value(text: str, name: str) -> float:
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


def known_answers(policy: loader.Policy) -> list[tuple[dict, np.ndarray]]:
    """Valid requests of a policy and its answers to them, without a server: the arms about their home, frozen rows in some."""
    rng, low, high = np.random.default_rng(0), *request.action_limits(policy.spec)
    height, width = policy.spec["image_size"]
    known = []
    for number in range(VALID):
        asked = {
            "images": {name: rng.integers(0, 256, (height, width, 3), np.uint8) for name in CAMERAS},
            "depth_m": {name: rng.uniform(0, 1, (height, width)).astype(np.float32) for name in CAMERAS},
            "state": rng.uniform(low, high).astype(np.float32),
            "past_actions": rng.uniform(low, high, (50, 14)).astype(np.float32),
            "past_mask": rng.random(50) < 0.8,
            "calibration_id": request.calibration_id(policy.spec),
            "seed": int(rng.integers(2**32)),
        }
        if number % 3 == 0 and "frozen_actions" in policy.spec["inputs"]:
            asked["frozen_actions"] = rng.uniform(low, high, (number, 14)).astype(np.float32)
        actions = policy(request.check_request(asked, policy.spec).inputs)["actions"][0]
        known.append((messages.tree(asked), np.clip(actions, low, high)))
    return known


def make_case(number: int, seed: int, target: Target) -> Case:
    """Case `number` of a seed."""
    random = Random(f"{seed}-{number}")
    valid, actions = random.choice(target.valid)
    message = messages.tree(valid) | {"request_id": number}
    kind = random.choices(list(KINDS), weights=[weight for weight, _ in KINDS.values()])[0]
    return KINDS[kind][1](random, message, actions)


def _whole(random: Random, message: dict, actions: np.ndarray) -> Case:
    """A valid request, in one frame or in several with pings between them."""
    data = messages.pack(dict(random.sample(list(message.items()), len(message))) | random.choice(({}, {"deadline_ms": 60_000})))
    if random.random() < 0.5:
        return Case("valid", "one frame", frames.frame(frames.BINARY, data), actions)
    cuts = sorted(random.randrange(len(data)) for _ in range(random.randrange(1, 20)))
    ping = frames.frame(frames.PING, random.randbytes(random.randrange(126)))
    return Case("valid", f"{len(cuts)} cuts", ping.join(frames.fragments(frames.BINARY, data, cuts)), actions)


def _grammar(random: Random, message: dict, actions: np.ndarray) -> Case:
    ways = [messages.mutate(message, random) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    return Case("grammar", ", ".join(ways), frames.frame(frames.BINARY, messages.pack(message)))


def _duplicate(random: Random, message: dict, actions: np.ndarray) -> Case:
    return Case("duplicate", "a key twice", frames.frame(frames.BINARY, messages.duplicated(message, random)))


def _bytes(random: Random, message: dict, actions: np.ndarray) -> Case:
    return Case("bytes", "bent", frames.frame(frames.BINARY, messages.bend(messages.pack(message), random)))


def _text(random: Random, message: dict, actions: np.ndarray) -> Case:
    data = random.choice((b"", b"{}", b"hello", "ä€😀".encode() * 50, messages.pack(message), b"\xff\xfe", b"\xed\xa0\x80"))
    return Case("text", repr(data[:10]), frames.frame(frames.TEXT, data), reply=False)


def _frames(random: Random, message: dict, actions: np.ndarray) -> Case:
    """Frames that RFC 6455 forbids, that claim more than they hold, or that close."""
    data = messages.pack(message)
    odd = (
        ("opcode", frames.frame(random.choice((3, 7, 11, 15)), data)),
        ("reserved bits", frames.frame(frames.BINARY, data, reserved=random.randrange(1, 8))),
        ("no mask", frames.frame(frames.BINARY, data, masked=False)),
        ("goes on with nothing", frames.frame(0, data)),
        ("two beginnings", frames.frame(frames.BINARY, data, final=False) + frames.frame(frames.BINARY, data)),
        ("long ping", frames.frame(frames.PING, bytes(200))),
        ("ping in parts", frames.frame(frames.PING, b"x", final=False)),
        ("length", frames.frame(frames.BINARY, data, length=random.choice((2**63 - 1, 2**64 - 1, 2**31, 33 * 2**20)))),
        ("stops", frames.frame(frames.BINARY, data)[: random.randrange(len(data))]),
        ("close", frames.frame(frames.CLOSE, random.choice((b"", b"\x03", b"\x03\xe8", b"\xff\xff", b"\x03\xe8\xff")))),
        ("noise", random.randbytes(random.choice((1, 2, 14, 400)))),
    )
    about, sent = random.choice(odd)
    return Case("frames", about, sent, reply=False)


def _raw(random: Random, message: dict, actions: np.ndarray) -> Case:
    """Something else than a handshake."""
    path, method = random.choice(_PATHS), random.choice(("GET", "GET", "POST", "HEAD", "G\x00T"))
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    keys = ("Sec-WebSocket-Key: x\r\n", "Sec-WebSocket-Key: \xff\r\n", "", "Authorization: Api-Key \xe4\r\n", "X: y\r\n" * 200)
    head = f"{method} {path} HTTP/{random.choice(('1.1', '1.0', '9', ''))}\r\n{upgrade}{random.choice(keys)}\r\n".encode("latin-1")
    sent = random.choice((head, head[: random.randrange(len(head))], random.randbytes(random.choice((0, 1, 500, 70_000)))))
    return Case("raw", f"{method} {path[:20]!r}", sent, reply=False, raw=True)


KINDS = {  # name -> (share, maker)
    "valid": (12, _whole),
    "grammar": (45, _grammar),
    "duplicate": (4, _duplicate),
    "bytes": (29, _bytes),
    "text": (2, _text),
    "frames": (5, _frames),
    "raw": (3, _raw),
}


def _client(target: Target, tally: Tally, seed: int) -> None:
    """One client: a connection as long as it lasts, then another."""
    wire = None
    while (number := tally.take()) is not None:
        case = make_case(number, seed, target)
        try:
            if case.raw:
                frames.exchange(target.host, target.port, case.data)
                tally.add(number, case, "closed", None)
                continue
            wire = wire or frames.Wire(target.host, target.port)
            outcome, wrong = play(wire, case, number, target)
        except (OSError, ValueError) as error:  # no connection, no upgrade, or one that said nothing
            outcome, wrong = "lost", f"{type(error).__name__}: {error}"
        tally.add(number, case, outcome, wrong)
        if outcome != "answered" and wire is not None:
            wire = wire.close()
    if wire is not None:
        wire.close()


def play(wire: frames.Wire, case: Case, number: int, target: Target) -> tuple[str, str | None]:
    """Send a case and judge what comes: (outcome, what is wrong with it or None)."""
    try:
        wire.send(case.data)
        if case.about in ("stops", "noise", "ping in parts"):  # it may wait for more
            return "left", None
        reply = wire.receive()
        while case.actions is not None and reply.opcode == frames.TEXT and b" busy: " in reply.payload[:20]:
            wire.send(case.data)
            reply = wire.receive()
        return judge(reply, case, number, target) if reply.opcode == frames.BINARY else _judge_error(wire, reply, case)
    except frames.Lost as lost:
        return "closed", f"closed with {lost.code} without a word" if case.reply else None
    except TimeoutError:
        return "silent", "no answer"


def judge(reply: frames.Frame, case: Case, number: int, target: Target) -> tuple[str, str | None]:
    """An answer: finite, within the limits, to this request, and the policy's own where that is known."""
    found = protocol.unpack(reply.payload)
    actions, (low, high) = found["actions"], request.action_limits(target.spec)
    if actions.shape != (50, 14) or not np.isfinite(actions).all() or (actions < low).any() or (actions > high).any():
        return "answered", f"actions {actions.shape} from {actions.min()} to {actions.max()}"
    if not np.isfinite(list(found["server_timing"].values())).all() or not np.isfinite(_number(found.get("client_time"))):
        return "answered", f"times {found['server_timing']}, {found.get('client_time')}"
    if case.actions is None:
        return "answered", None
    if found.get("request_id") != number:
        return "answered", f"it has request_id {found.get('request_id')}"
    error = np.abs(actions - case.actions).max()  # a batch of other size rounds otherwise in its last bits
    return "answered", f"actions are off by {error:.3g}" if error > 1e-5 else None


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) else 0.0


def _judge_error(wire: frames.Wire, reply: frames.Frame, case: Case) -> tuple[str, str | None]:
    """A text: short, with an id, without anything of the server's inside, and the connection is closed after a refusal."""
    text = reply.payload.decode()
    form = _ERROR.match(text)
    if form is None or len(text) > 520 or "Traceback" in text or "internal error" in text:
        return "refused", f"it says {text[:200]!r}"
    if case.actions is not None:
        return "refused", f"a valid request: {text[:200]}"
    if form["kind"]:
        return form[2], None
    try:
        wire.receive()
        return "refused", "another message after an error"
    except frames.Lost as lost:
        return "refused", None if lost.code == 1011 else f"closed with {lost.code} after an error"
