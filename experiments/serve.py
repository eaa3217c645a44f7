"""Serve an artifact over a websocket until SIGTERM.

    python -m experiments.serve --artifact runs/artifact --port 8000
    CLAMP_API_KEY=... python -m experiments.serve --artifact runs/artifact --host 0.0.0.0

It listens when the policy is loaded, verified and compiled; then it prints "ready ws://host:port". Away from loopback an API key
is needed (environment variable CLAMP_API_KEY, never on the command line, where others can read it).
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)

from clamp_jax.deploy import artifact, journal, memory
from clamp_jax.deploy.server import PolicyServer, Settings

READY = "ready "
NICE = 5  # on a machine that also runs the control loop: the policy may wait, the loop may not
STOP_S = 15.0  # how long a server may take to end before it is killed


def serve(folder: Path, settings: Settings, *, instruction: str | None = None) -> None:
    """Load, verify, warm and serve until SIGTERM or SIGINT; ValueError or OSError when the artifact or the address is refused."""
    policy = artifact.load_artifact(folder, instruction=instruction)
    server = PolicyServer(policy, settings)
    warm = artifact.example_inputs(policy.spec)
    run_server(server, warm)


def run_server(server: PolicyServer, warm: dict) -> None:
    """Serve in this process, which does nothing else, until SIGTERM or SIGINT; prints READY and the URL."""
    with contextlib.ExitStack() as stack:

        def ready(url: str) -> None:
            stack.enter_context(memory.steady())  # what is loaded and compiled stays
            print(READY + url, flush=True)

        asyncio.run(server.run(warm=warm, ready=ready, signals=True))


@contextlib.contextmanager
def server_process(
    folder: Path, *, port: int = 0, ready_s: float = 600.0, log: Path | None = None, options: Sequence[str] = ()
) -> Iterator[str]:
    """A server in a process of its own while the context is open; gives its URL. RuntimeError when it does not get ready.

    `log`: file for its standard error instead of this process's; `options`: more of the command line.
    """
    command = [sys.executable, "-m", "experiments.serve", "--artifact", str(folder.absolute()), "--port", str(port), *options]
    root = Path(__file__).parents[1]
    with open(log, "w") if log else contextlib.nullcontext() as stderr:
        env = os.environ | {"PYTHONPATH": str(root)}
        process = subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True)
    os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
    watchdog = threading.Timer(ready_s, process.kill)
    watchdog.start()
    try:
        yield _ready_url(process)
    finally:
        watchdog.cancel()
        _end(process)


def _ready_url(process: subprocess.Popen) -> str:
    for line in process.stdout:
        if line.startswith(READY):
            return line.removeprefix(READY).strip()
    raise RuntimeError(f"the policy server ended with code {process.wait()} before it was ready; its own words stand above")


def _end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Serve an exported policy over a websocket.")
    parser.add_argument("--artifact", type=Path, required=True, help="folder that experiments.export wrote")
    parser.add_argument("--host", default="127.0.0.1", help="away from loopback the environment must hold CLAMP_API_KEY")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one, printed when ready")
    parser.add_argument("--instruction", help="refuse an artifact that was trained for another one")
    parser.add_argument("--max-batch", type=int, default=8, help="requests of several clients in one call of the policy")
    parser.add_argument("--batch-wait-ms", type=float, default=0.0, help="how long a request waits for others; 0: not at all")
    parser.add_argument("--pending", type=int, default=16, help="requests waiting or running; one more is answered busy")
    parser.add_argument("--log-format", choices=tuple(journal.FORMATTERS), default="text", help="json: one object a line")
    return parser.parse_args(argv)


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings of a command line; ValueError for numbers that are none."""
    if args.max_batch < 1 or args.pending < 1 or not args.batch_wait_ms >= 0:
        raise ValueError("--max-batch and --pending are at least 1, --batch-wait-ms at least 0")
    named = {"host": args.host, "port": args.port, "api_key": os.environ.get("CLAMP_API_KEY") or None}
    return Settings(**named, max_batch=args.max_batch, batch_wait_s=args.batch_wait_ms / 1e3, pending=args.pending)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; 1 with one line on the standard error when it cannot."""
    args = parse(argv)
    journal.start(args.log_format)
    logging.getLogger("websockets").setLevel(logging.ERROR)  # it tells of every stranger that hangs up
    try:
        serve(args.artifact, settings_of(args), instruction=args.instruction)
    except (ValueError, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
