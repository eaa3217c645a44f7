"""Reads an artifact and runs it. This file stands alone, and a copy lies in every artifact.

It needs jax, numpy, flatbuffers and safetensors:

    import loader
    policy = loader.load_artifact("folder")
    actions = policy(inputs)["actions"]  # (b, 50, 14); policy.spec["inputs"] says what `inputs` holds

An artifact is refused, with what was found and what was expected, when a file is missing or has another SHA-256 than the
manifest, when program, weights and statistics do not belong together, or when an input is not what the specification says.
"""

import datetime
import hashlib
import json
import warnings
from pathlib import Path

import jax
import jax.export
import numpy as np
import safetensors

FORMAT = 2  # of the artifact's folder; another one is refused
PROGRAM, WEIGHTS, EXAMPLE = "policy.stablehlo", "weights.safetensors", "example.safetensors"
FILES = (PROGRAM, WEIGHTS, "spec.json", EXAMPLE, "MODEL_CARD.md")


class Policy:
    """A loaded artifact: call it with a flat dict of batched numpy arrays, get {"actions": (b, 50, 14)} in rad and gripper 0..1."""

    def __init__(self, exported, weights: dict, spec: dict):
        """`exported`: jax.export.Exported; `weights`: name -> array, moved to the default device; `spec`: of spec.json."""
        self.spec = spec
        self._weights = jax.device_put(weights)
        self._call = jax.jit(exported.call)

    def __call__(self, inputs: dict) -> dict:
        """Actions of a batch as numpy; ValueError names the input that is missing or not as specified, or actions not finite."""
        inputs = check_inputs(inputs, self.spec)
        outputs = {name: np.asarray(value) for name, value in self._call(self._weights, inputs).items()}
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise ValueError(f"output '{name}' is not finite; these weights cannot drive a robot")
        return outputs


def load_artifact(folder, *, instruction: str | None = None) -> Policy:
    """Verify and load the artifact in `folder`; `instruction`, if given, must be the one it was trained for.

    Raises FileNotFoundError or ValueError naming the file or field, what was found and what was expected.
    """
    folder = Path(folder)
    listed = verify_files(folder)
    spec = read_spec(folder)
    if instruction is not None:
        check_instruction(instruction, spec)
    weights, metadata = read_safetensors(folder / WEIGHTS)
    check_weights(weights, metadata, spec)
    check_together(listed, spec)
    exported = read_program(folder / PROGRAM, spec)
    platform = jax.default_backend()
    if {"gpu": "cuda"}.get(platform, platform) not in exported.platforms:
        raise ValueError(f"artifact was exported for {', '.join(exported.platforms)}, this is {platform}; run with JAX_PLATFORMS=cpu")
    return Policy(exported, weights, spec)


def read_program(path: Path, spec: dict):
    """The exported program; warns past the date until which jax promises to load it, ValueError with versions when it cannot."""
    made = f"{path} was written on {spec['date']} by jax {spec['versions']['jax']}, which promises to load it until {spec['loads_until']}"
    if datetime.date.today().isoformat() > spec["loads_until"]:
        warnings.warn(f"{made}; this is jax {jax.__version__}: export the checkpoint anew", stacklevel=3)
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        exported.mlir_module()  # deserialize opens the shell alone; the program inside has versions of its own
        return exported
    except Exception as error:  # whatever a reader of another version may raise
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{made}; jax {jax.__version__} cannot read it ({cause}): export the checkpoint anew") from error


def check_together(listed: dict, spec: dict) -> None:
    """ValueError when program or weights (name -> SHA-256) are those of another specification, whatever the manifest says."""
    for name in (PROGRAM, WEIGHTS):
        found, expected = listed[name], spec["hashes"].get(name)
        if found != expected:
            raise ValueError(f"{name} has SHA-256 {found}, spec.json was written for {expected}; export the folder again")


def verify_files(folder: Path) -> dict:
    """Compare every file with manifest.json and return its list; raises naming the file, its hash and the manifest's."""
    manifest_path = Path(folder) / "manifest.json"
    if not manifest_path.is_file():
        raise FileNotFoundError(f"{manifest_path} is missing; this is no artifact, or it was not copied whole")
    manifest = _listed(manifest_path)
    for name in FILES:
        if name not in manifest:
            raise ValueError(f"{manifest_path} does not list {name}; export the artifact again")
    for name, expected in manifest.items():
        path = Path(folder) / name
        if Path(name).name != name:
            raise ValueError(f"{manifest_path} lists '{name}'; expected plain file names")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing but stands in the manifest; copy the folder again")
        found = sha256(path)
        if found != expected:
            raise ValueError(f"{path} has SHA-256 {found}, the manifest says {expected}; copy or export the folder again")
    return manifest


def _listed(path: Path) -> dict:
    """File name -> SHA-256 of a manifest that carries its own."""
    try:
        manifest = json.loads(path.read_text())
        files, expected = manifest["files"], manifest["sha256"]
        found = canonical_hash(files)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an artifact's manifest ({error}); copy or export the folder again") from error
    if expected != found:
        raise ValueError(f"{path} has SHA-256 {found} of its list, it says {expected}; copy or export the folder again")
    return files


def read_spec(folder: Path) -> dict:
    """The specification of an artifact; ValueError when its format is another than this file reads."""
    spec = json.loads((Path(folder) / "spec.json").read_text())
    if spec.get("format") != FORMAT:
        raise ValueError(f"spec.json has format {spec.get('format')!r}, this loader reads {FORMAT}; use the loader.py of the artifact")
    return spec


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def statistics_hash(statistics: dict) -> str:
    """SHA-256 of statistics as canonical JSON: stands in the weights' file too, so that the two cannot be parted."""
    return canonical_hash(statistics)


def canonical_hash(document: dict) -> str:
    """SHA-256 of a JSON document in one canonical form, hexadecimal."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_weights(weights: dict, metadata: dict, spec: dict) -> None:
    """ValueError unless names, shapes and dtypes of the weights are the specification's and the statistics belong to them."""
    found, expected = metadata.get("statistics_sha256"), statistics_hash(spec["statistics"])
    if found != expected:
        raise ValueError(f"statistics in spec.json have hash {expected}, the weights were trained with {found}; export again")
    described = {name: [list(array.shape), str(array.dtype)] for name, array in weights.items()}
    for name in sorted(described.keys() | spec["weights"].keys()):
        if described.get(name) != spec["weights"].get(name):
            raise ValueError(f"weight '{name}' is {described.get(name)}, spec.json says {spec['weights'].get(name)}; export again")


def check_instruction(instruction: str, spec: dict) -> None:
    """ValueError unless `instruction` is the artifact's: the policy takes no text, so another one would be ignored."""
    if instruction != spec["instruction"]:
        raise ValueError(f"instruction is {instruction!r}, this policy was trained for {spec['instruction']!r}; load the artifact for it")


def check_inputs(inputs: dict, spec: dict) -> dict:
    """The batched inputs as numpy arrays, unchanged; ValueError names the input, what was found and what was expected."""
    missing, unknown = [n for n in spec["inputs"] if n not in inputs], [n for n in inputs if n not in spec["inputs"]]
    if missing or unknown:
        raise ValueError(f"inputs missing: {missing or 'none'}, unknown: {unknown or 'none'}; expected {list(spec['inputs'])}")
    arrays = {name: np.asarray(inputs[name]) for name in spec["inputs"]}
    batch = {name: array.shape[0] if array.ndim else None for name, array in arrays.items()}
    if len(set(batch.values())) != 1 or 0 in batch.values():
        raise ValueError(f"inputs have batch sizes {batch}; expected the same of all, at least 1")
    for name, array in arrays.items():
        check_input(name, array, spec)
    return arrays


def check_input(name: str, array: np.ndarray, spec: dict) -> None:
    """ValueError unless one batched array has its specified dtype and shape and its values make sense."""
    expected = spec["inputs"][name]
    shape = tuple(expected["shape"][1:])
    if name == "depth_m" and array.dtype == np.uint16:
        raise ValueError("input 'depth_m' is uint16; pass metres as float32: raw depth times the camera's unit (a D405's is 0.0001)")
    if array.dtype != np.dtype(expected["dtype"]):
        raise ValueError(f"input '{name}' has dtype {array.dtype}; expected {expected['dtype']}, {expected['unit']}")
    if array.shape[1:] != shape:
        raise ValueError(f"input '{name}' has shape {array.shape}; expected (batch, {', '.join(map(str, shape))}): {expected['axes']}")
    if expected["rule"] == "steps" and not ((array >= 0) & (array < spec["chunk"])).all():
        raise ValueError(f"input '{name}' has {array.min()} to {array.max()}; expected 0 to {spec['chunk'] - 1}: {expected['axes']}")
    if np.issubdtype(array.dtype, np.floating):
        _check_values(name, array, spec)


def _check_values(name: str, array: np.ndarray, spec: dict) -> None:
    rule, (low, high) = spec["inputs"][name]["rule"], bounds(array)
    if not np.isfinite(low + high):
        raise ValueError(f"input '{name}' has {int((~np.isfinite(array)).sum())} values that are not finite{_where(name, array, spec)}")
    if rule == "depth" and low < 0:
        raise ValueError(f"input '{name}' has a value of {low:.4g}; expected metres, 0 where nothing was measured")
    if rule == "depth" and high > 100:
        raise ValueError(f"input '{name}' reaches {high:.4g}; expected metres, this looks like millimetres")
    if rule == "intrinsics" and (array[..., :2] <= 0).any():
        raise ValueError(f"input '{name}' has a focal length of {array[..., :2].min():.4g}; expected fx, fy, cx, cy in pixels")
    if rule == "rigid":
        error = rigid_error(array)
        if error > 1e-3:
            raise ValueError(f"input '{name}' is no rigid transform (off by {error:.3g}); expected a rotation, metres and (0, 0, 0, 1)")


def bounds(array: np.ndarray) -> tuple[float, float]:
    """Least and largest value, (0, 0) of an empty array; not finite where any value is not: the cheapest way to know."""
    return (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)


def _where(name: str, array: np.ndarray, spec: dict) -> str:
    if spec["inputs"][name]["shape"][1:2] != [len(spec["cameras"])]:
        return "; expected finite numbers"
    bad = (~np.isfinite(array)).any(axis=tuple(i for i in range(array.ndim) if i != 1))
    return f" (cameras {[c for c, b in zip(spec['cameras'], bad, strict=True) if b]}); expected finite numbers, depth 0 where not measured"


def rigid_error(transforms: np.ndarray) -> float:
    """Largest deviation of (..., 4, 4) transforms from a right-handed rotation with a last row of 0, 0, 0, 1."""
    rotation = transforms[..., :3, :3].astype(np.float64)
    gram = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max()
    handed = np.abs(np.linalg.det(rotation) - 1).max()
    return float(max(gram, handed, np.abs(transforms[..., 3, :] - np.array([0, 0, 0, 1])).max()))


def read_safetensors(path) -> tuple[dict, dict]:
    """(name -> array, metadata) of a safetensors file; ValueError that names it when it is damaged."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - it is no dict
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error
