"""The splat beside its peers, and the ray caster beside MuJoCo's renderer: same work, one run, told as ratios.

Each framework is in its own process and they take turns, a call each, so that a busy moment of the machine meets all of
them. All images are compared pixel by pixel with ours before anything is timed. With --device gpu ours alone is measured,
against a copy of the same bytes on the device.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark import scene, work
from experiments.benchmark.timing import spread
from experiments.benchmark.worker import FRAMEWORKS

ROOT = Path(__file__).parents[2]
POINTS, BATCHES, RADII = (100_000, 300_000, 1_200_000), (1, 16), (0, 1)
OURS = "jax"
TIE = 1e-6  # of a depth: what float32 rounds a transform by, so that points of a plane seen straight on have no order
EDGE_PX = 1e-4  # so near to a pixel's edge float32 may put a point on either side


# Without it every call of any framework spends up to half its time on fresh pages from the system. Given to all of them.
TUNABLES = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=8589934592:glibc.malloc.hugetlb=1"


class BenchmarkError(RuntimeError):
    """A figure cannot be had: a peer is missing or its images are not ours."""


class Peer:
    """A framework in its process."""

    def __init__(self, name: str):
        self.name = name
        command = [sys.executable, "-m", "experiments.benchmark.worker", name]
        environ = {"GLIBC_TUNABLES": TUNABLES, **os.environ}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        told = self.ask("forms")
        self.forms, self.version = told["forms"], told["version"]

    def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """The answer to one request; BenchmarkError says what went wrong there."""
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": "its process ended"}
        if "error" in reply:
            raise BenchmarkError(f"{self.name}, {do} {what}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process: its input ends, and so does it."""
        with self._process:
            self._process.stdin.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which cells are measured."""
    parser.add_argument("--points", type=int, nargs="+", default=list(POINTS), help="of a cloud")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES), help="clouds in a call")
    parser.add_argument("--radius", type=int, nargs="+", default=list(RADII), help="pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=["torch", "numpy"], choices=[name for name in FRAMEWORKS if name != OURS])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--skip-raycast", action="store_true", help="leave MuJoCo's renderer out, which needs OpenGL")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures. Raises BenchmarkError when a peer is missing or shows something else, ValueError for arguments out of range."""
    if args.repeats < 1 or min(*args.points, *args.batch) < 1 or min(args.radius) < 0:
        raise ValueError("give 1 or more repeats, points and clouds, and radii of 0 or more")
    if args.device == "gpu":
        return {"device_splat": on_device(args)}
    found = {} if args.skip_raycast else {"raycast": raycast(args.repeats)}
    for name in args.peers:
        if importlib.util.find_spec(name) is None:
            raise BenchmarkError(f"{name} is not installed; pip install '.[bench]' brings it, or leave it out of --peers")
    peers = [Peer(name) for name in (OURS, *args.peers)]
    try:
        found["glibc_tunables"] = os.environ.get("GLIBC_TUNABLES", TUNABLES)
        found["frameworks"] = {peer.name: peer.version for peer in peers}
        cells = [(n, b, r) for n in args.points for b in args.batch for r in args.radius]
        found["splat"] = [cell(peers, *each, args.repeats) for each in cells]
    finally:
        for peer in peers:
            peer.close()
    return found


def raycast(repeats: int) -> dict[str, Any]:
    """The figures of raycasting.py, told at once."""
    command = [sys.executable, "-m", "experiments.benchmark.raycasting", str(repeats)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BenchmarkError(f"the ray caster beside MuJoCo's renderer failed: {reason}; --skip-raycast leaves it out")
    found = json.loads(done.stdout)
    parts = {name: f"{found[name]['median_ms']:.1f} ms" for name in ("ours", "mujoco", "five_splats")}
    told = f"four RGB-D cameras: ours {parts['ours']}, {found['renderer']} {parts['mujoco']}; five splats {parts['five_splats']}"
    print(told, file=sys.stderr, flush=True)
    return found


def cell(peers: Sequence[Peer], points: int, batch: int, radius: int, repeats: int) -> dict[str, Any]:
    """One size: images compared, then times in turns, then ratios of each peer's best form to our default one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "work.npz")
        made = scene.make(points, batch, radius)
        work.save(made, path)
        first, different = {}, {}
        for peer in peers:
            peer.ask("load", path=str(path))
            for form in peer.forms:
                image = Path(folder, f"{peer.name}-{form}.npy")
                first[peer.name, form] = peer.ask("image", form=form, path=str(image))["ms"]
                different[peer.name, form] = compare(Path(folder, f"{OURS}-{peers[0].forms[0]}.npy"), image, made, f"{peer.name} {form}")
    times = {key: [] for key in first}
    for _ in range(repeats):
        for peer in peers:
            for form in peer.forms:
                times[peer.name, form].append(peer.ask("time", form=form)["ms"])
    floor = memory_floor(made)
    found = {"points": made.points.shape[1], "batch": batch, "radius_px": radius, "floor_ms": floor}
    found["forms"] = {
        f"{name} {form}": {"first_ms": first[name, form], "different_pixels": different[name, form], **spread("ms", values)}
        for (name, form), values in times.items()
    }
    found |= ratios(times, [peer.name for peer in peers[1:]], ours=(OURS, peers[0].forms[0]))
    found["over_floor"] = statistics.median(times[OURS, peers[0].forms[0]]) / floor
    tell(found)
    return found


def compare(ours: Path, theirs: Path, made: work.Work, name: str) -> int:
    """Pixels in which two images show different points; BenchmarkError when one of them is not a matter of rounding.

    A point within EDGE_PX of a pixel's edge falls on either side of it, and of two points within TIE of a depth either is taken.
    """
    one, other = np.load(ours), np.load(theirs)
    different = [tuple(place) for place in np.argwhere(np.abs(one - other).max(axis=-1) > 1e-4).tolist()]
    strange = [place for place in different if not explained(one[place], other[place], made, place[1])]
    if strange:
        where = f"first in {strange[0]} (sample, view, row, column): {one[strange[0]].tolist()} and {other[strange[0]].tolist()}"
        raise BenchmarkError(f"{name} shows other points than ours in {len(strange)} pixels, {where}")
    return len(different)


def explained(one: np.ndarray, other: np.ndarray, made: work.Work, view: int) -> bool:
    """Whether rounding may choose between two pixels (depth, x, y, z): at an edge, or equally near."""
    tied = min(one[0], other[0]) > 0 and abs(one[0] - other[0]) < TIE * one[0]
    return tied or at_an_edge(one, made, view) or at_an_edge(other, made, view)


def at_an_edge(pixel: np.ndarray, made: work.Work, view: int) -> bool:
    """Whether what a pixel shows projects to a pixel's edge, worked out in float64; an empty pixel shows nothing."""
    if pixel[0] == 0:
        return False
    x, y, z = (np.linalg.inv(made.world_from_camera[view].astype(np.float64)) @ [*pixel[1:], 1])[:3]
    fx, fy, cx, cy = made.intrinsics[view]
    uv = np.array([fx * x / z + cx, fy * y / z + cy])
    return bool(np.abs(uv - np.round(uv)).min() < EDGE_PX)


def ratios(times: dict[tuple[str, str], list[float]], names: Sequence[str], ours: tuple[str, str]) -> dict[str, Any]:
    """Of each peer, eager and compiled apart: its best form's time over ours, call by call."""
    found = {}
    for name in names:
        for kind in ("eager", "compile"):
            forms = [form for framework, form in times if framework == name and form.startswith("compile") == (kind == "compile")]
            if forms:
                best = min(forms, key=lambda form: statistics.median(times[name, form]))
                each = [theirs / mine for theirs, mine in zip(times[name, best], times[ours], strict=True)]
                found[f"{name}_{kind}_over_ours"] = {"form": best, **spread("ratio", each)}
    return found


def memory_floor(made: work.Work) -> float:
    """Milliseconds that reading the points once and writing the images once take here: a copy of as many bytes, best of five."""
    moved = made.points.nbytes + made.points.shape[0] * len(made.intrinsics) * work.SIZE**2 * 16
    source = np.ones(moved // 2, np.uint8)
    target, times = np.zeros_like(source), []
    for _ in range(5):
        begin = time.perf_counter()
        np.copyto(target, source)
        times.append(1e3 * (time.perf_counter() - begin))
    return min(times)


def tell(found: dict[str, Any]) -> None:
    """One line of a cell, on standard error, so that a long run can be followed."""
    ours = next(iter(found["forms"].values()))
    parts = [f"{found['points']:>9,} points x {found['batch']:>2}, radius {found['radius_px']}: {ours['median_ms']:.1f} ms"]
    peers = {key.removesuffix("_over_ours"): value for key, value in found.items() if key.endswith("_over_ours")}
    parts += [f"{name} {value['median_ratio']:.1f}x" for name, value in peers.items()]
    print("  ".join(parts), file=sys.stderr, flush=True)


def on_device(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Our splat on an accelerator: points/s, and its time over that of copying the same bytes there (points once a view)."""
    import jax
    import jax.numpy as jnp

    from experiments.benchmark import splat_jax
    from experiments.benchmark.timing import repeat

    if jax.default_backend() == "cpu":
        raise BenchmarkError("--device gpu found no accelerator; install the [cuda] or [tpu] extra on a machine that has one")
    found = []
    for points in args.points:
        for batch in args.batch:
            for radius in args.radius:
                made = scene.make(points, 1, radius)
                clouds = jnp.tile(jnp.asarray(made.points), (batch, 1, 1)) + jnp.arange(batch, dtype=jnp.float32)[:, None, None] * 1e-4
                cameras = jax.device_put((made.intrinsics, made.world_from_camera))
                moved = len(made.intrinsics) * batch * (made.points.shape[1] * 12 + work.SIZE**2 * 16)
                source = jnp.zeros(moved // 8, jnp.float32)
                copy = jax.jit(lambda x: x + 1)
                copied = repeat(lambda source=source, copy=copy: copy(source), args.repeats)
                for form in splat_jax.FORMS:
                    for slab in (1, 16, batch):
                        render = splat_jax.compiled(radius, form, slab)
                        times = repeat(lambda render=render, clouds=clouds, cameras=cameras: render(clouds, *cameras), args.repeats)
                        entry = {"points": made.points.shape[1], "batch": batch, "radius_px": radius, "form": form, "slab": slab, **times}
                        entry["points_per_s"] = batch * len(made.intrinsics) * entry["points"] / times["median_ms"] * 1e3
                        entry["over_copy"] = times["median_ms"] / copied["median_ms"]
                        found.append(entry | {"copy_ms": copied["median_ms"]})
    return found
