"""Do to a small run what happens to runs, and say what came of it.

    python -m experiments.torture --kills 100 --json kills.json
    python -m experiments.torture --memory --json memory.json
    python -m experiments.torture --damage 1000 --json damage.json
    python -m experiments.torture --fuzz 100000 --json fuzz.json
    python -m experiments.torture --chaos 100 --json chaos.json
    python -m experiments.torture --bus 100 --json bus.json
    python -m experiments.torture --commands 1000000 --json commands.json
    python -m experiments.torture --demonstrations 20 --json demonstrations.json
    python -m experiments.torture --recorder 50 --json recorder.json

--kills: SIGKILL at random moments and inside saves; --memory: the process over 200 saves and 2,000 steps; --damage: bits,
truncations and deletions over a checkpoint and an artifact; --fuzz: messages to a policy server; --chaos: faults of server
and network under a running robot; --bus: faults of servos, cables and power under two emulated arms;
--commands: sequences of ten commands through the safety layer; --demonstrations: how much of the
experts' commands it leaves alone, so many episodes a task; --recorder: SIGKILL at random moments of a recording, and while an
episode is being finished.
Leaves with 0 when all held, with 1 when not.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from clamp_jax import runtime

if __name__ == "__main__":
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # a restart compiles many small things
    runtime.setup("cpu", mjx=False)

from absl import logging

from experiments.stages import write_json
from experiments.torture import bus, chaos, commands, damage, demonstrations, fuzz, kills, memory, recorder, run


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Torture a small run.")
    parser.add_argument("--kills", type=int, default=0, help="how many times a run is killed")
    parser.add_argument("--memory", action="store_true", help="watch the memory of a process that trains and saves")
    parser.add_argument("--damage", type=int, default=0, help="how many files are damaged, one at a time")
    parser.add_argument("--fuzz", type=int, default=0, help="how many messages a policy server is sent")
    parser.add_argument("--chaos", type=int, default=0, help="how many times server or network are broken under a running robot")
    parser.add_argument("--bus", type=int, default=0, help="how many faults two emulated arms are given")
    parser.add_argument("--commands", type=int, default=0, help="how many sequences of commands the safety layer is asked for")
    parser.add_argument("--demonstrations", type=int, default=0, help="how many of each task's go through the safety layer")
    parser.add_argument("--recorder", type=int, default=0, help="how many times a recording is killed")
    parser.add_argument("--variant", default="clamp", help="of stage (i), for --kills")
    parser.add_argument("--steps", type=int, default=60, help="of a killed run")
    parser.add_argument("--save-every", type=int, default=5, help="steps of a killed run")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="no kill after this many seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.kills:
            plan = run.Plan(Path(folder), args.steps, args.save_every, args.variant)
            found["kills"] = kills.torture(plan, args.kills, seed=args.seed, limit_s=args.limit_s)  # first: it forks
        if args.recorder:
            found["recorder"] = recorder.torture(_made(Path(folder) / "recorder"), args.recorder, seed=args.seed)  # it forks too
        if args.damage:
            found["damage"] = damage.torture(Path(folder) / "damage", args.damage, seed=args.seed)
        if args.fuzz:
            found["fuzz"] = fuzz.torture(_made(Path(folder) / "fuzz"), args.fuzz, seed=args.seed)
        if args.chaos:
            found["chaos"] = chaos.torture(args.chaos, seed=args.seed)
        if args.bus:
            found["bus"] = bus.torture(args.bus, seed=args.seed)
        if args.commands:
            found["commands"] = commands.torture(args.commands, seed=args.seed)
        if args.demonstrations:
            found["demonstrations"] = demonstrations.torture(args.demonstrations, seed=args.seed)
        if args.memory:
            found["memory"] = memory.torture(_made(Path(folder) / "memory"))
    print(json.dumps(found, indent=1))
    if args.json:
        write_json(args.json, found)
    return 0 if all(part["good"] for part in found.values()) else 1


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
