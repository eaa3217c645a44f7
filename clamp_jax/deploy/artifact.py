"""Writes a policy as a folder that a computer without training code runs; `loader.py` beside this file reads it.

    policy.stablehlo      jax.export for cpu, cuda and tpu, batch size symbolic: f(weights, inputs) -> {"actions": (b, 50, 14)}
    weights.safetensors   the arguments `weights`, flat; closed-over weights would make the program as large as they are
    spec.json             inputs, cameras, calibration, limits, statistics, instruction, versions, date, hashes
    example.safetensors   two inputs and the actions that the writing machine got for them
    MODEL_CARD.md         for people: data, training, evaluation, what it is not for
    loader.py             a copy of the reader: needs jax, numpy, flatbuffers and safetensors
    manifest.json         SHA-256 of each file, and of that list
"""

import datetime
import importlib.metadata
import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from clamp_jax.deploy import loader, model_card, safety
from clamp_jax.deploy.loader import Policy, check_instruction, load_artifact  # noqa: F401 - the readers' public names
from clamp_jax.geometry import aloha
from clamp_jax.structs import ACTION_DIM, CAMERAS, CHUNK, CONTROL_HZ, HISTORY, Calibration, Frozen, Observation

PLATFORMS = ("cpu", "cuda", "tpu")
# jax promises that an export loads with the jax of six months later (jax.export's compatibility guarantee)
PROMISE = datetime.timedelta(days=182)
ACTION_UNIT, ACTION_AXES = "rad; gripper 0 closed, 1 open", "left 6, gripper, right 6, gripper"
PACKAGES = ("jax", "jaxlib", "numpy", "flax", "clamp-jax")  # whose versions an artifact names


class Description(NamedTuple):
    """What stands in the specification beside the weights."""

    instruction: str  # the policy takes no text: a request with another instruction is refused
    height: int  # pixels of the camera images
    width: int
    calibration: Calibration  # of the cell it is meant for; a request may bring its own
    statistics: dict  # JSON: {"working_range": (14, 2), ...}, bound to the weights by hash
    training: dict  # JSON: what made these weights (preset, steps, data sets, checkpoint's hash, sensors)
    evaluations: tuple = ()  # JSON: reports of experiments.evaluate, for the model card
    hashes: Mapping[str, str] = MappingProxyType({})  # SHA-256 of what the weights are of: "checkpoint", "config"
    rounding_rad: float = 0.0  # how far roundings alone may move the actions; more than any tolerance where it is larger
    licence: str = "Apache-2.0, as the program that wrote it; the data's own licence applies to what was learnt of them"


def write_artifact(
    folder: str | Path,
    act: Any,
    params: Any,
    description: Description,
    *,
    check: Callable[[Path], object] = lambda folder: None,
    today: datetime.date | None = None,
) -> Path:
    """Export a policy (clamp_jax.act.Act: params, observation, noise, frozen -> actions (50, 14)) into `folder`, which must not exist.

    The noise is drawn inside from the input `seed`. Written to a temporary folder beside it, given to `check`, and renamed:
    nothing half-written or refused is ever seen under the name. Raises FileExistsError, ValueError when the example's actions
    are not finite, and what `check` raises.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; artifacts are never overwritten: remove it or choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(temporary, act, params, description, today=today or datetime.date.today())
        check(temporary)
        temporary.chmod(0o755)  # mkdtemp makes it private
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write(folder: Path, act: Any, params: Any, description: Description, *, today: datetime.date) -> None:
    weights = flatten(params)
    spec = make_spec(weights, description, today=today)
    exported = export(policy_function(act, params, description.calibration), weights, spec)
    (folder / loader.PROGRAM).write_bytes(exported.serialize())
    write_safetensors(folder / loader.WEIGHTS, weights, {"statistics_sha256": spec["hashes"]["statistics"]})
    spec["hashes"] |= {name: loader.sha256(folder / name) for name in (loader.PROGRAM, loader.WEIGHTS)}
    (folder / "spec.json").write_text(json.dumps(spec, indent=1, sort_keys=True, allow_nan=False))
    (folder / "MODEL_CARD.md").write_text(model_card.write(spec, description.evaluations, licence=description.licence))
    inputs = stored_inputs(spec)
    actions = Policy(exported, weights, spec)(inputs)["actions"]
    write_safetensors(folder / loader.EXAMPLE, inputs | {"actions": actions}, {})
    shutil.copyfile(loader.__file__, folder / "loader.py")
    files = {path.name: loader.sha256(path) for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps({"files": files, "sha256": loader.canonical_hash(files)}, indent=1))


def policy_function(act: Any, params: Any, calibration: Calibration) -> Callable:
    """f(weights: flat dict, inputs: flat dict of batched arrays) -> {"actions": (b, 50, 14)}, of the policy for one example.

    `act` has `look` and `decide` as clamp_jax.act.Act. Painting in takes a backward pass a denoising step: it is done only when
    a request of the batch has frozen rows.
    """
    structure = jax.tree.structure(params)
    names = list(flatten(params))
    mount = jnp.asarray(calibration.mount)

    def function(weights: dict, inputs: dict) -> dict:
        tree = jax.tree.unflatten(structure, [weights[name] for name in names])
        memory = jax.vmap(lambda one: act.look(tree, _observation(one, mount)))(inputs)
        noise = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), (CHUNK, ACTION_DIM)))(inputs["seed"])
        frozen = Frozen(inputs["frozen_actions"], inputs["frozen_steps"])
        painted = lambda: jax.vmap(lambda *one: act.decide(tree, *one))(memory, noise, frozen)  # noqa: E731
        plain = lambda: jax.vmap(lambda *one: act.decide(tree, *one, None))(memory, noise)  # noqa: E731
        return {"actions": jax.lax.cond(jnp.any(inputs["frozen_steps"] > 0), painted, plain)}

    return function


def _observation(inputs: dict, mount: jax.Array) -> Observation:
    calibration = Calibration(inputs["intrinsics"], inputs["parent_from_camera"], mount, inputs["world_from_base"])
    images = {name: inputs[name] for name in ("rgb", "depth_m", "joints", "past_actions", "past_mask")}
    return Observation(calibration=calibration, **images)


def export(function: Callable, weights: dict, spec: dict) -> jax.export.Exported:
    """jax.export of `function` for PLATFORMS with a symbolic batch `b` in every input."""
    (batch,) = jax.export.symbolic_shape("b")
    weight_shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
    inputs = {n: jax.ShapeDtypeStruct((batch, *e["shape"][1:]), np.dtype(e["dtype"])) for n, e in spec["inputs"].items()}
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(weight_shapes, inputs)


def flatten(params: Any) -> dict[str, np.ndarray]:
    """Parameter tree -> {"path/of/leaf": array}, in the tree's order; ValueError at two leaves of one name."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}
    if len(flat) != len(leaves):
        raise ValueError(f"parameter tree has {len(leaves)} leaves but {len(flat)} names; names must not contain '/'")
    return flat


def make_spec(weights: dict, description: Description, *, today: datetime.date) -> dict:
    """The specification as JSON values: everything that a robot's computer must know to ask this policy for actions."""
    calibration = {n: np.asarray(v, np.float64).tolist() for n, v in description.calibration._asdict().items() if n != "mount"}
    return {
        "format": loader.FORMAT,
        "date": today.isoformat(),
        "loads_until": (today + PROMISE).isoformat(),
        "versions": {"python": platform.python_version()} | {name.replace("-", "_"): _version(name) for name in PACKAGES},
        "platforms": list(PLATFORMS),
        "instruction": description.instruction,
        "cameras": list(CAMERAS),
        "image_size": [description.height, description.width],
        "calibration": calibration | {"mount": np.asarray(description.calibration.mount).tolist()},
        "inputs": input_spec(description.height, description.width),
        "outputs": {"actions": _entry((CHUNK, ACTION_DIM), "float32", ACTION_UNIT, "joint", f"time; {ACTION_AXES}", "finite")},
        "control_hz": CONTROL_HZ,
        "chunk": CHUNK,
        "history": HISTORY,
        "limits": _limits(),
        "statistics": description.statistics,
        "training": description.training,
        "rounding_rad": description.rounding_rad,
        "hashes": {"statistics": loader.statistics_hash(description.statistics)} | dict(description.hashes),
        "weights": {name: [list(array.shape), str(array.dtype)] for name, array in weights.items()},
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a clone that was not installed
        return "not installed"


def _limits() -> dict:
    """Of the arm, and under `commands` of each of the 14 numbers of a command in the order of `names`: what safety.py holds it to."""
    commands = {name: np.asarray(value).tolist() for name, value in safety.aloha_limits()._asdict().items()}
    names = [f"{side}/{joint}" for side in aloha.SIDES for joint in (*aloha.ARM_JOINTS, "gripper")]
    return {
        "joints": list(aloha.ARM_JOINTS),
        "joint_limits_rad": aloha.JOINT_LIMITS.tolist(),
        "finger_limits_m": list(aloha.FINGER_LIMITS),
        "gripper_closed_open_m": [aloha.GRIPPER_CLOSED_M, aloha.GRIPPER_OPEN_M],
        "working_range": aloha.WORKING_RANGE.tolist(),
        "commands": {"names": names, "unit": f"{ACTION_UNIT}; velocity a second, acceleration a second squared"} | commands,
    }


def input_spec(height: int, width: int) -> dict:
    """Name -> shape, dtype, unit, frame, axes and rule of each input of the exported function."""
    k = len(CAMERAS)
    cell = "world: origin at the table's centre 0.030 m below its top, x to the right arm, z up"
    camera = "cameras in the order of `cameras`"
    rows = {
        "rgb": ((k, height, width, 3), "uint8", "0..255, R first", "image", f"{camera}, rows, columns, RGB", "image"),
        "depth_m": ((k, height, width), "float32", "m along the axis, 0 = no measurement", "camera", f"{camera}, rows, columns", "depth"),
        "intrinsics": ((k, 4), "float32", "pixels, centres at +0.5", "image", f"{camera}; fx, fy, cx, cy", "intrinsics"),
        "parent_from_camera": (
            (k, 4, 4),
            "float32",
            "m; OpenCV axes (x right, y down, z forward)",
            f"{cell}; for a wrist camera the body gripper_link of its arm",
            f"{camera}; rigid transform",
            "rigid",
        ),
        "world_from_base": ((2, 4, 4), "float32", "m", cell, "left, right; rigid transform of base_link", "rigid"),
        "joints": ((ACTION_DIM,), "float32", ACTION_UNIT, "joint", ACTION_AXES, "finite"),
        "past_actions": ((HISTORY, ACTION_DIM), "float32", ACTION_UNIT, "joint", "commands as executed, oldest first", "finite"),
        "past_mask": ((HISTORY,), "bool", "False before the start of the episode", "-", "as past_actions", "mask"),
        "seed": ((), "uint32", "-", "-", "of the sampler's noise", "seed"),
        "frozen_actions": ((CHUNK, ACTION_DIM), "float32", ACTION_UNIT, "joint", "the chunk's first rows, given", "finite"),
        "frozen_steps": ((), "int32", "-", "-", f"how many rows are given, 0 to {CHUNK - 1}", "steps"),
    }
    return {name: _entry(*row) for name, row in rows.items()}


def _entry(shape: tuple, *words: str) -> dict:
    return {"shape": ["b", *shape]} | dict(zip(("dtype", "unit", "frame", "axes", "rule"), words, strict=True))


def example_inputs(spec: dict, seed: int = 0) -> dict:
    """A made-up but plausible input, batch 1: noise images, depth 0.3 to 1 m, the arms at home, the artifact's calibration."""
    rng = np.random.default_rng(seed)
    shape = (1, len(spec["cameras"]), *spec["image_size"])
    home = np.tile(aloha.HOME_COMMAND, 2)
    calibration = {n: np.asarray(spec["calibration"][n], np.float32)[None] for n in ("intrinsics", "parent_from_camera", "world_from_base")}
    return calibration | {
        "rgb": rng.integers(0, 256, (*shape, 3), np.uint8),
        "depth_m": rng.uniform(0.3, 1.0, shape).astype(np.float32),
        "joints": home[None].astype(np.float32),
        "past_actions": np.tile(home, (1, HISTORY, 1)).astype(np.float32),
        "past_mask": np.ones((1, HISTORY), bool),
        "seed": np.full(1, seed, np.uint32),
        "frozen_actions": np.zeros((1, CHUNK, ACTION_DIM), np.float32),
        "frozen_steps": np.zeros(1, np.int32),
    }


def stored_inputs(spec: dict) -> dict:
    """The inputs of the stored example, batch 2: nothing frozen, and a tenth of the chunk frozen."""
    free, frozen = example_inputs(spec), example_inputs(spec, seed=1)
    home = np.tile(aloha.HOME_COMMAND, 2).astype(np.float32)
    frozen |= {"frozen_actions": np.tile(home, (1, CHUNK, 1)), "frozen_steps": np.full(1, CHUNK // 10, np.int32)}
    return {name: np.concatenate([free[name], frozen[name]]) for name in free}


def verify_artifact(folder: str | Path, *, tolerance: float = 1e-4) -> dict:
    """Check every hash, run the stored example and compare: {"files", "difference", "tolerance", "jax", "loads_until"}.

    `tolerance` in rad (ours: the same program on another machine differs in its last bits), at least the specification's
    `rounding_rad`; ValueError when it is passed.
    """
    policy = load_artifact(folder)
    tolerance = max(tolerance, policy.spec["rounding_rad"])
    stored, _ = loader.read_safetensors(Path(folder) / loader.EXAMPLE)
    expected = stored.pop("actions")
    difference = float(np.abs(policy(stored)["actions"] - expected).max())
    if not difference <= tolerance:
        raise ValueError(f"{folder}: the stored example's actions differ by {difference:.3g}, at most {tolerance:.3g} is expected here")
    report = {"files": sorted(loader.verify_files(Path(folder))), "difference": difference, "tolerance": tolerance}
    return report | {"jax": jax.__version__, "loads_until": policy.spec["loads_until"]}


def write_safetensors(path: Path, arrays: dict, metadata: dict) -> None:
    """Write name -> array as a safetensors file; the library writes memory as it lies: what is not in C order would come out wrong."""
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    safetensors.numpy.save_file(ordered, path, metadata=metadata or None)
    path.chmod(0o644)  # it makes a private file, which a server under another name could not read
