"""A client's message -> the inputs of an artifact, every value checked against its specification. Numpy only.

    images         {camera: (h, w, 3) uint8}          depth_m     {camera: (h, w) float32, m}
    state          (14,)                              past_actions (50, 14), past_mask (50,)
    calibration_id the metadata's, or calibration = {"intrinsics": {camera: (4,)}, "parent_from_camera": {camera: (4, 4)},
                                                     "world_from_base": (2, 4, 4)}
    optional: prompt, seed, request_id, client_time, protocol_version, deadline_ms, frozen_actions (n, 14) with n < 50
"""

import hashlib
import json
import math
from typing import NamedTuple

import numpy as np

from clamp_jax.deploy.loader import bounds, check_input, check_instruction
from clamp_jax.deploy.protocol import PROTOCOL_VERSION
from clamp_jax.structs import ACTION_DIM, CHUNK

REQUIRED = ("images", "depth_m", "state", "past_actions", "past_mask")
OPTIONAL = ("calibration", "calibration_id", "prompt", "seed", "request_id", "client_time", "protocol_version")
OPTIONAL += ("deadline_ms", "frozen_actions")
CALIBRATION = ("intrinsics", "parent_from_camera", "world_from_base")
_VECTORS = {"state": "joints", "past_actions": "past_actions", "past_mask": "past_mask"}
# Largest size of a value that makes sense, and what a larger one is likely to be (ours: a policy given 1e38 answers with infinities).
_REACH = {
    "joints": (10.0, "rad, gripper 0 closed to 1 open; this looks like degrees or counts"),
    "past_actions": (10.0, "rad, gripper 0 closed to 1 open; this looks like degrees or counts"),
    "frozen_actions": (10.0, "rad, gripper 0 closed to 1 open; this looks like degrees or counts"),
    "intrinsics": (1e5, "fx, fy, cx, cy in pixels"),
    "parent_from_camera": (100.0, "metres; this looks like millimetres"),
    "world_from_base": (100.0, "metres; this looks like millimetres"),
}


class Request(NamedTuple):
    """A checked request."""

    inputs: dict  # of the artifact, batch 1
    echo: dict  # request_id and client_time, sent back as they came
    budget_s: float = math.inf  # from its receipt; what is still queued then is not run


def calibration_id(spec: dict) -> str:
    """Short hash of the artifact's own calibration: a client that has checked it need not send the matrices each time."""
    return hashlib.sha256(json.dumps(spec["calibration"], sort_keys=True).encode()).hexdigest()[:16]


def metadata(spec: dict) -> dict:
    """What a server tells on connect: the specification without the list of weights, the sensors of training, and the protocol.

    `sensor` are the faults of the cameras that the policy was trained with, delays among them; {} where the artifact is silent.
    `calibrations` are the ids of those that its data were recorded with, [] where the artifact is silent.
    """
    told = {name: value for name, value in spec.items() if name not in ("weights", "statistics", "training")}
    told["calibration"] = {name: np.asarray(value, np.float32) for name, value in spec["calibration"].items()}
    sensor, calibrations = dict(spec["training"].get("sensor", {})), list(spec["training"].get("calibrations", []))
    names = {"calibration_id": calibration_id(spec), "policy_id": policy_id(spec)}
    return told | {"sensor": sensor, "calibrations": calibrations, "protocol_version": PROTOCOL_VERSION, "optional": list(OPTIONAL)} | names


def check_request(message: object, spec: dict, *, known: str | None = None) -> Request:
    """Turn a decoded message into inputs; ValueError lists missing and unknown names, or names the value that is wrong.

    `known`: the artifact's calibration id, where it is at hand (`calibration_id` takes a while).
    """
    check_names(message, spec)
    check_options(message, known or calibration_id(spec), spec)
    values = {"rgb": _stack(message, "images", spec), "depth_m": _stack(message, "depth_m", spec)}
    values |= {ours: _small(message[theirs], theirs) for theirs, ours in _VECTORS.items()}
    values |= _calibration(message, spec) | {"seed": np.asarray(message.get("seed", 0), np.uint32)}
    values |= _frozen(message, spec)
    inputs = {name: np.asarray(value)[None] for name, value in values.items()}
    for name, array in inputs.items():
        check_input(name, array, spec)
        _check_reach(name, array)
    echo = {name: message[name] for name in ("request_id", "client_time") if name in message}
    return Request(inputs, echo, message.get("deadline_ms", math.inf) / 1e3)


def _check_reach(name: str, array: np.ndarray) -> None:
    """ValueError when a value is finite and yet far outside of anything that a robot or a camera has."""
    most, unit = _REACH.get(name, (np.inf, ""))
    if name in _REACH and np.abs(array).max(initial=0) > most:
        raise ValueError(f"input '{name}' reaches {np.abs(array).max():.4g}; expected at most {most:g} in {unit}")


def check_names(message: object, spec: dict) -> None:
    """ValueError listing every name that is missing, cameras included, or unknown."""
    if not isinstance(message, dict):
        raise ValueError(f"request is {type(message).__name__}; expected a map with {', '.join(REQUIRED)}")
    missing = [name for name in REQUIRED if name not in message]
    if "calibration" not in message and "calibration_id" not in message:
        missing.append("calibration or calibration_id")
    unknown = [str(name)[:40] for name in message if name not in REQUIRED + OPTIONAL]
    for group in ("images", "depth_m"):
        if group in message:
            lacks, odd = _compare_cameras(message[group], group, spec)
            missing, unknown = missing + lacks, unknown + odd
    if missing or unknown:
        found = f"lacks {missing or 'nothing'}, has unknown {unknown[:8] or 'nothing'}"
        raise ValueError(f"request {found}; see the metadata's `inputs`")


def _compare_cameras(group: object, name: str, spec: dict) -> tuple[list[str], list[str]]:
    """Names "group/camera" that a map lacks, and those of it that nobody knows; ValueError when it is no map."""
    if not isinstance(group, dict):
        raise ValueError(f"'{name}' is {type(group).__name__}; expected a map of the cameras {spec['cameras']}")
    missing = [f"{name}/{camera}" for camera in spec["cameras"] if camera not in group]
    return missing, [f"{name}/{str(camera)[:40]}" for camera in group if camera not in spec["cameras"]]


def check_options(message: dict, known: str, spec: dict) -> None:
    """ValueError when prompt, seed, protocol version, request id, client time or calibration id is not acceptable."""
    if "prompt" in message:
        check_instruction(message["prompt"], spec)
    if message.get("protocol_version", PROTOCOL_VERSION) != PROTOCOL_VERSION:
        raise ValueError(f"protocol_version is {message['protocol_version']!r}, this server speaks {PROTOCOL_VERSION}; update the client")
    seed = message.get("seed", 0)
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"seed is {str(seed)[:40]}; expected an integer in 0..{2**32 - 1}")
    for name in ("request_id", "client_time"):
        value = message.get(name, 0)
        printable = isinstance(value, str) and len(value) <= 64 and value.isprintable()  # it stands in a text of the server's
        if not printable and not (isinstance(value, int | float) and math.isfinite(value)):
            found = repr(value)[:40] if isinstance(value, int | float | str) else type(value).__name__
            raise ValueError(f"{name} is {found}; expected a finite number or a printable string of at most 64 characters")
    _check_deadline(message.get("deadline_ms", 1))
    if "calibration" not in message and message.get("calibration_id") != known:
        raise ValueError(f"calibration_id is {str(message.get('calibration_id'))[:40]!r}, the artifact's is {known!r}; send `calibration`")


def _check_deadline(value: object) -> None:
    """ValueError unless it is a positive number of milliseconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError(f"deadline_ms is {str(value)[:40]}; expected the milliseconds that the reply may take, over 0")


def _frozen(message: dict, spec: dict) -> dict:
    """The inputs that fix the beginning of the chunk; {} for an artifact that has none."""
    sent = _small(message.get("frozen_actions", np.zeros((0, ACTION_DIM), np.float32)), "frozen_actions")
    if "frozen_actions" not in spec["inputs"]:
        if len(sent):
            raise ValueError("this artifact takes no 'frozen_actions'; export it anew, or leave them out")
        return {}
    if sent.ndim != 2 or sent.shape[1] != ACTION_DIM or len(sent) >= CHUNK or sent.dtype != np.float32 or not np.isfinite(sent).all():
        expected = f"float32 (n, {ACTION_DIM}) with n < {CHUNK}, all finite: the chunk's first rows"
        raise ValueError(f"'frozen_actions' is {sent.dtype} {sent.shape}; expected {expected}")
    filled = np.zeros((CHUNK, ACTION_DIM), np.float32)
    filled[: len(sent)] = sent
    return {"frozen_actions": filled, "frozen_steps": np.int32(len(sent))}


def action_limits(spec: dict) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest action (14,) that an artifact's joints and fingers allow, float32: rad, gripper 0 closed to 1 open."""
    limits = spec["limits"]
    closed, opened = limits["gripper_closed_open_m"]
    finger = (np.array(limits["finger_limits_m"]) - closed) / (opened - closed)
    both = np.tile(np.concatenate([np.array(limits["joint_limits_rad"]), finger[None]]), (2, 1))
    return both[:, 0].astype(np.float32), both[:, 1].astype(np.float32)


def build_info(spec: dict) -> dict[str, str]:
    """What is served, in words for a label: date, instruction, versions, and the hash that tells two artifacts apart."""
    versions = {f"{name}_version": str(value) for name, value in spec["versions"].items()}
    return {"date": spec["date"], "instruction": spec["instruction"], "policy": policy_id(spec)} | versions


def policy_id(spec: dict) -> str:
    """Short hash of a whole specification: another policy, or the same with other statistics, has another."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def _stack(message: dict, group: str, spec: dict) -> np.ndarray:
    """Images of all cameras, in the artifact's order."""
    name = {"images": "rgb"}.get(group, group)
    shape = tuple(spec["inputs"][name]["shape"][2:])
    images = [message[group][camera] for camera in spec["cameras"]]
    for camera, image in zip(spec["cameras"], images, strict=True):
        _check_image(f"{group}/{camera}", image, shape, spec["inputs"][name])
    return np.stack(images)


def _check_image(name: str, image: object, shape: tuple, expected: dict) -> None:
    if not isinstance(image, np.ndarray):
        raise ValueError(f"'{name}' is {type(image).__name__}; expected an array of shape {shape}")
    if "depth" in name and image.dtype == np.uint16:
        raise ValueError(f"'{name}' is uint16; pass metres as float32: raw depth times the camera's unit (a D405's is 0.0001)")
    if shape[-1] == 3 and image.shape == (3, *shape[:2]):
        raise ValueError(f"'{name}' has shape {image.shape}, channels first; expected them last, {shape}: np.moveaxis(image, 0, -1)")
    if image.dtype != np.dtype(expected["dtype"]) or image.shape != shape:
        raise ValueError(f"'{name}' is {image.dtype} {image.shape}; expected {expected['dtype']} {shape}: {expected['unit']}")
    if image.dtype == np.float32 and not np.isfinite(sum(bounds(image))):
        raise ValueError(f"'{name}' has {int((~np.isfinite(image)).sum())} values not finite; expected 0 where nothing was measured")


def _small(value: object, name: str) -> np.ndarray:
    """A vector or matrix; float64 is rounded, since that is what numpy makes of a list."""
    if not isinstance(value, np.ndarray | list):
        raise ValueError(f"'{name}' is {type(value).__name__}; expected an array")
    _check_numbers(value, name)
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise ValueError(f"'{name}' is a ragged list; expected an array") from None
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite then, and refused
        return array.astype(np.float32) if array.dtype == np.float64 else array


def _check_numbers(value: object, name: str) -> None:
    """ValueError when a list holds anything but numbers and lists: numpy pads texts to the longest, gigabytes for a few of them."""
    for part in value if isinstance(value, list) else ():
        if not isinstance(part, list | int | float | np.generic | np.ndarray):
            raise ValueError(f"'{name}' has a {type(part).__name__} in its list; expected numbers")
        _check_numbers(part, name)


def _calibration(message: dict, spec: dict) -> dict:
    if "calibration" not in message:
        return {name: np.asarray(spec["calibration"][name], np.float32) for name in CALIBRATION}
    sent = message["calibration"]
    found = sorted(map(str, sent)) if isinstance(sent, dict) else type(sent).__name__
    if found != sorted(CALIBRATION):
        raise ValueError(f"'calibration' has {str(found)[:120]}; expected {list(CALIBRATION)}")
    return {name: _per_camera(sent[name], name, spec) for name in CALIBRATION}


def _per_camera(value: object, name: str, spec: dict) -> np.ndarray:
    if not isinstance(value, dict):
        return _small(value, f"calibration/{name}")
    missing, unknown = _compare_cameras(value, f"calibration/{name}", spec)
    if missing or unknown:
        raise ValueError(f"calibration lacks {missing or 'nothing'}, has unknown {unknown[:8] or 'nothing'}; expected {spec['cameras']}")
    arrays = [_small(value[camera], f"calibration/{name}/{camera}") for camera in spec["cameras"]]
    if len({array.shape for array in arrays}) != 1:
        raise ValueError(f"'calibration/{name}' has shapes {[array.shape for array in arrays]}; expected the same for every camera")
    return np.stack(arrays)
