"""The server of `--chaos`: a stand-in policy whose actions say which question they answer, in a process that can be killed.

    python -m experiments.torture.chaos_server --spec SPEC.json --port 8000 [--other]
"""

import argparse
import json
import logging
from pathlib import Path

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup("cpu", mjx=False)

import numpy as np

from clamp_jax.deploy.server import PolicyServer, Settings
from clamp_jax.structs import CHUNK
from experiments.serve import run_server

MARKS = 400  # questions that are told apart; a robot knows them by its own clock too
OTHER = 1.05  # the right gripper of a policy that must not be obeyed


class Told:
    """Every action says its question (left gripper) and its place in the chunk (right gripper); the arms stand still."""

    def __init__(self, spec: dict, other: bool):
        self.spec, self._other = spec | ({"instruction": "do something else"} if other else {}), other

    def __call__(self, inputs: dict) -> dict:
        """Actions (b, 50, 14)."""
        actions = np.repeat(inputs["joints"][:, None], CHUNK, axis=1).astype(np.float32)
        actions[..., 6] = (inputs["seed"][:, None] % MARKS) / MARKS
        actions[..., 13] = OTHER if self._other else np.arange(CHUNK) / CHUNK
        return {"actions": actions}


def told(command: np.ndarray) -> tuple[int, int] | None:
    """(question modulo MARKS, place in the chunk) of a command; None for one that no such policy gave."""
    question, place = command[6] * MARKS, command[13] * CHUNK
    if abs(question - round(question)) > 1e-2 or abs(place - round(place)) > 1e-2:
        return None
    return round(question), round(place)


def warm(spec: dict) -> dict[str, np.ndarray]:
    """Inputs of zeros, batch 1."""
    return {name: np.zeros((1, *entry["shape"][1:]), entry["dtype"]) for name, entry in spec["inputs"].items()}


def main() -> None:
    """Serve until it is killed."""
    parser = argparse.ArgumentParser(description="The server of --chaos.")
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--other", action="store_true", help="another policy than the robot began with")
    args = parser.parse_args()
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    policy = Told(json.loads(args.spec.read_text()), args.other)
    run_server(PolicyServer(policy, Settings(port=args.port)), warm(policy.spec))


if __name__ == "__main__":
    main()
