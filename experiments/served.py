"""Policies that a server answers for, in any framework, as policies of a rollout: one request a trial, several at a time.

A server whose metadata has a `protocol_version` is asked as docs/deploy.md describes (depth, calibration, past commands, seed). Any
other server of openpi's wire gets `state`, `images` and `prompt`. A server must keep nothing of a request for the next one: the
trials take turns on a few connections.
"""

import concurrent.futures
import queue
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from clamp_jax.deploy.client import Busy, Client, Refused, Unavailable
from clamp_jax.sensors import SensorConfig
from clamp_jax.sim import rollout
from clamp_jax.structs import ACTION_DIM, CAMERAS, Observation

# What servers get that do not describe their inputs: images (h, w, 3) by our cameras' names, or as openpi's ALOHA has them, (3, h, w)
WIRES = ("plain", "openpi")
OPENPI = dict(zip(CAMERAS, ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist"), strict=True))
CONNECT_S = 30.0  # a server may be starting
BUSY_S = (0.02, 0.5)  # first and longest wait after "busy"
MAX_SIDE = 4096  # pixels


class ServedError(RuntimeError):
    """A server that refuses, that is lost, or whose reply is no chunk of commands; names policy, address and trial."""


class How(NamedTuple):
    """How servers are asked."""

    wire: str = "plain"  # of WIRES
    image_size: tuple[int, int] = (224, 224)  # height, width where the metadata has no `image_size` (224: openpi's)
    connections: int = 8  # requests at a time; our server puts as many into one call of its policy
    timeout_s: float = 60.0  # of one reply: a first one may wait for a compilation
    api_key: str | None = None


class Wanted(NamedTuple):
    """What a server's metadata says of its requests."""

    described: bool  # as docs/deploy.md has it; else state, images and prompt
    sensor: SensorConfig
    cameras: tuple[str, ...]
    instruction: str | None  # the only one that it takes
    policy_id: str | None


class ServedPolicy:
    """A rollout.Policy whose chunks, of any length, come from a server and are held to the joints' limits.

    `sensor` are the cameras that the server asks for, `about` what a report should say of it.
    """

    def __init__(self, name: str, url: str, how: How, instructions: Sequence[str]):
        """Connect; `instructions`: each trial's. ServedError when there is no server or when it is for another instruction."""
        if how.connections < 1:
            raise ValueError(f"connections is {how.connections}; expected at least 1")
        self._name, self._url, self._how, self._instructions = name, url, how, instructions
        self._all = [Client(url, api_key=how.api_key) for _ in range(how.connections)]
        self._clients: queue.LifoQueue[Client] = queue.LifoQueue()  # those that are idle
        for client in self._all:
            self._clients.put(client)
        self._wanted = self._connect(self._all[-1])  # the first to be taken
        self.sensor = self._wanted.sensor
        self.about = {"url": url, "wire": "described" if self._wanted.described else how.wire, "policy_id": self._wanted.policy_id}
        self._pool = concurrent.futures.ThreadPoolExecutor(how.connections, thread_name_prefix="served")

    def _connect(self, client: Client) -> Wanted:
        try:
            found = wanted(client.connect(CONNECT_S), self._how)
            if found.instruction is not None and found.instruction not in self._instructions:
                raise ValueError(f"it is for {found.instruction!r}; the trials' instructions are {sorted(set(self._instructions))}")
            return found
        except (Unavailable, Refused, ValueError) as error:
            client.close()
            raise ServedError(f"policy {self._name!r} at {self._url}: {error}") from error

    def close(self) -> None:
        """End the threads after their running requests, and the connections."""
        self._pool.shutdown(cancel_futures=True)
        for client in self._all:
            client.close()

    def __call__(self, observation: Observation, keys: Array) -> np.ndarray:
        """Commands (b, t, 14) for a batch of trials; ServedError names the first trial that has none."""
        whole = jax.tree.map(np.asarray, observation)
        seeds = np.asarray(jax.vmap(rollout.noise_seed)(keys))
        parts = [jax.tree.map(lambda leaf, i=i: leaf[i], whole) for i in range(len(seeds))]
        asked = [self._pool.submit(self._ask, trial, part, int(seeds[trial])) for trial, part in enumerate(parts)]
        try:
            chunks = [one.result() for one in asked]
        finally:
            for one in asked:
                one.cancel()
        for trial, chunk in enumerate(chunks):
            if len(chunk) != len(chunks[0]):
                self._fail(trial, f"it answered {len(chunk)} commands, and {len(chunks[0])} in trial 0; chunks must have one length")
        return np.clip(np.stack(chunks), rollout.LOWEST, rollout.HIGHEST)

    def _ask(self, trial: int, one: Observation, seed: int) -> np.ndarray:
        client = self._clients.get()
        try:
            reply = self._reply(client, self._message(trial, one, seed))
            if self._wanted.described:
                self._check_same(_words(client.metadata, "policy_id"))
            return commands(reply)
        except (Unavailable, Refused, ValueError) as error:
            return self._fail(trial, str(error), error)
        finally:
            self._clients.put(client)

    def _fail(self, trial: int, text: str, cause: BaseException | None = None) -> Any:
        raise ServedError(f"policy {self._name!r} at {self._url}, trial {trial}: {text}") from cause

    def _check_same(self, policy_id: str | None) -> None:
        if policy_id != self._wanted.policy_id:
            raise ValueError(f"the server now has policy {policy_id}, it began with {self._wanted.policy_id}")

    def _reply(self, client: Client, message: dict) -> dict:
        """The reply; a busy server is asked again until the time is over, a lost one is not: it may come back with another policy."""
        deadline, wait_s = time.monotonic() + self._how.timeout_s, BUSY_S[0]
        while True:
            try:
                return client.infer(message, timeout_s=max(deadline - time.monotonic(), 1e-3))
            except Busy:
                if time.monotonic() + wait_s >= deadline:
                    raise
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, BUSY_S[1])

    def _message(self, trial: int, one: Observation, seed: int) -> dict:
        images = {name: one.rgb[CAMERAS.index(name)] for name in self._wanted.cameras}
        prompt = {"prompt": self._instructions[trial]} if self._wanted.instruction is None else {}
        if self._wanted.described:
            return described(one, images, seed) | prompt
        if self._how.wire == "openpi":
            images = {OPENPI[name]: np.ascontiguousarray(image.transpose(2, 0, 1)) for name, image in images.items()}
        return {"state": one.joints, "images": images} | prompt


def wanted(metadata: Mapping[str, Any], how: How) -> Wanted:
    """Read a server's metadata; ValueError names what is not as expected."""
    size, ours = metadata.get("image_size", how.image_size), "protocol_version" in metadata
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(n) is int and 0 < n <= MAX_SIDE for n in size):
        raise ValueError(f"image_size is {str(size)[:80]}; expected height and width, 1 to {MAX_SIDE} pixels each")
    if not ours:
        return Wanted(False, SensorConfig(height=size[0], width=size[1]), CAMERAS, None, None)
    faults, names = metadata.get("sensor") or {}, SensorConfig._fields[3:]
    if not isinstance(faults, dict) or not faults.keys() <= set(names):
        raise ValueError(f"its metadata's `sensor` is {str(faults)[:120]}; expected a map of {', '.join(names)}")
    cameras = metadata.get("cameras", CAMERAS)
    if not isinstance(cameras, list | tuple) or not cameras or not set(map(str, cameras)) <= set(CAMERAS):
        raise ValueError(f"it asks for the cameras {str(cameras)[:120]}; the simulator has {', '.join(CAMERAS)}")
    sensor = SensorConfig(height=size[0], width=size[1], **faults)
    return Wanted(True, sensor, tuple(cameras), _words(metadata, "instruction"), _words(metadata, "policy_id"))


def _words(metadata: Mapping[str, Any], name: str) -> str | None:
    return None if metadata.get(name) is None else str(metadata[name])[:200]


def described(one: Observation, images: dict, seed: int) -> dict:
    """A request as our server's metadata describes it, of one trial's observation."""
    calibration = {name: getattr(one.calibration, name) for name in ("intrinsics", "parent_from_camera", "world_from_base")}
    calibration |= {name: calibration[name][[CAMERAS.index(camera) for camera in images]] for name in ("intrinsics", "parent_from_camera")}
    depth_m = {name: one.depth_m[CAMERAS.index(name)] for name in images}
    past = {"past_actions": one.past_actions, "past_mask": one.past_mask}
    return {"images": images, "depth_m": depth_m, "state": one.joints, "calibration": calibration, "seed": seed} | past


def commands(reply: Mapping[str, Any]) -> np.ndarray:
    """The chunk (t, 14) float32 of a reply; ValueError when there is none, or one of another shape or with values not finite."""
    if "actions" not in reply:
        raise ValueError(f"the reply has {sorted(map(str, reply))[:8]}; expected 'actions'")
    try:
        found = np.asarray(reply["actions"], np.float32)
    except (TypeError, ValueError):
        raise ValueError("the reply's 'actions' are no array of numbers") from None
    if found.ndim != 2 or not len(found) or found.shape[1] != ACTION_DIM:
        raise ValueError(f"actions have shape {found.shape}; expected (t, {ACTION_DIM}): left arm 6, gripper, right arm 6, gripper")
    wrong = int(np.sum(~np.isfinite(found)))
    if wrong:
        raise ValueError(f"{wrong} of {found.size} values of its actions are not finite")
    return found


def parse(text: str) -> tuple[str, str]:
    """Name and URL of [NAME=]ws://host:port; without a name it is called as its host. ValueError when it is no such thing."""
    found = re.fullmatch(r"(?:([^=:/]+)=)?(wss?://([^/\s]+)\S*)", text)
    if found is None:
        raise ValueError(f"policy {text!r} is not known; expected hold_still, ws://host:port or NAME=ws://host:port")
    return found.group(1) or found.group(3), found.group(2)
