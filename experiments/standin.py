"""A real cell's stand-in: emulated buses whose arms are the simulator's, and D405 cameras of the vendor's software device.

The driver, the vendors' SDKs, the calibration file and the commands are those of a real cell; only servos, cameras and the person who
puts things back are ours. Buses and physics live in a process of their own, in real time; images are drawn in the one that asks.
Cameras may stand elsewhere than drawn; the arms' bases stand as drawn, because the experts know no others.
"""

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.data.records import round_depth
from clamp_jax.deploy import calibration as files
from clamp_jax.deploy import memory, protocol
from clamp_jax.deploy.calibration import CellCalibration
from clamp_jax.deploy.cameras import Frame
from clamp_jax.deploy.cell import Connected, sized
from clamp_jax.deploy.projection import directions, pixel_centres
from clamp_jax.deploy.robots import RobotLost, emulator
from clamp_jax.deploy.robots.arm import Motion
from clamp_jax.deploy.robots.asking import Asked
from clamp_jax.deploy.robots.viperx import ViperX
from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS
from experiments.cell_bus import SharedPlant
from experiments.simulated_cell import joints_of

START_S, ANSWER_S = 120.0, 5.0  # how long the cell's process may take to start, and to answer
SIZE = (480, 848)  # of the cameras' images, as clamp_jax/deploy/cameras/realsense.py opens them
DRAWN = 2  # pixels of an image that are drawn as one: a quarter of the time, and a policy's images are smaller still
ROUNDING = 1e-9  # px, of a ray that goes there and back
MOTION = Motion(watchdog_s=3.0, patience_s=2.0)  # longer than a robot's: its computer does not draw the images and move the arms as well


class World:
    """The body of the cell: one task's scene in native MuJoCo, things in it put back between episodes."""

    def __init__(self, task: str):
        from clamp_jax import runtime

        runtime.setup("cpu", mjx=False)
        import jax
        import mujoco

        from clamp_jax.sim import robot, scene, tasks

        self._task, self._scene, self._mujoco, self._control = tasks.get(task), scene.build(task), mujoco, robot.control
        self._data, self._judge = mujoco.MjData(self._scene.model), jax.jit(self._task.success)
        self._lock = threading.RLock()
        qpos, variant = (np.asarray(part) for part in self._task.reset(jax.random.key(0)))
        self.put(qpos, int(variant), arms=True)

    def put(self, qpos: np.ndarray, variant: int, *, arms: bool = False) -> None:
        """Put the things as in qpos (q,), at rest, and judge anew; `arms`: the arms too."""
        with self._lock:
            kept = slice(0, len(qpos)) if arms else slice(16, len(qpos))
            self._data.qpos[kept] = qpos[kept]
            self._data.qvel[:] = 0
            self._mujoco.mj_forward(self._scene.model, self._data)
            self._variant, self._success = np.int32(variant), False

    def step(self, action: np.ndarray | None) -> None:
        """Advance 0.02 s towards the goal (14,)."""
        with self._lock:
            if action is not None:
                self._data.ctrl[:] = self._control(action)
            self._mujoco.mj_step(self._scene.model, self._data, nstep=self._scene.substeps)
            now = self._data.qpos.astype(np.float32), self._data.qvel.astype(np.float32)
            self._success = self._success or bool(self._judge(*now, self._variant))

    def joints(self) -> np.ndarray:
        """Where the joints are (14,)."""
        with self._lock:
            return joints_of(self._data.qpos)

    def state(self) -> dict:
        """qpos (q,) and whether the task is done or has been."""
        with self._lock:
            return {"qpos": self._data.qpos.astype(np.float32), "success": self._success}


class Body:
    """The cell's process: `ports` of the arms by side, and what only a simulator lets one ask for."""

    def __init__(self, task: str):
        """Start it; RobotLost when it does not come up."""
        context = multiprocessing.get_context("spawn")  # jax does not survive a fork
        ours, theirs = context.Pipe()
        self._pipe = Asked(ours, "the cell's process", answer_s=ANSWER_S)
        self._process = context.Process(target=_live, args=(task, theirs), name="cell", daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.ports: dict[str, str] = self._pipe.receive(START_S)["ports"]
        except RobotLost:
            self.close()
            raise

    def state(self) -> dict:
        """qpos (q,) and success, of now."""
        return self._pipe.ask({"state": True})

    def joints(self) -> np.ndarray:
        """Where the joints (14,) truly are."""
        return np.array(self._pipe.ask({"joints": True})["joints"])

    def put(self, qpos: np.ndarray, variant: int) -> None:
        """Put the things back as in qpos (q,); the arms stay where they are."""
        self._pipe.ask({"put": np.asarray(qpos, np.float32), "variant": int(variant)})

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _live(task: str, pipe: Connection) -> None:
    """In the cell's process: buses and physics until the pipe closes."""
    try:
        world = World(task)
        shared = SharedPlant(world)
    except Exception as error:  # the parent tells the user
        pipe.send_bytes(protocol.pack({"error": f"{type(error).__name__}: {error}"[:2000]}))
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(memory.steady())
        buses = [stack.enter_context(emulator.Bus(emulator.servos_of_an_arm(), shared.side(number))) for number in (0, 1)]
        pipe.send_bytes(protocol.pack({"ports": {side: bus.path for side, bus in zip(aloha.SIDES, buses, strict=True)}}))
        with contextlib.suppress(EOFError, OSError):
            while True:
                pipe.send_bytes(protocol.pack(_answer(world, protocol.unpack(pipe.recv_bytes()))))


def _answer(world: World, message: Mapping[str, Any]) -> dict:
    if "put" in message:
        world.put(message["put"], message["variant"])
        return {}
    return {"joints": world.joints()} if "joints" in message else world.state()


class D405s:
    """The four cameras of a cell: what the ray caster draws with a D405's faults, through their lenses and the vendor's library."""

    def __init__(self, body: Body, task: str, cell: CellCalibration, *, preset: str = "d405", seed: int = 0):
        """`cell`: where the cameras and bases truly are, and their lenses."""
        import jax

        from clamp_jax import sensors
        from clamp_jax.sim import rollout, scene
        from experiments.evaluate import fixed_looks, padded_scene

        state, capacity = padded_scene(scene.build(task))
        size = next(iter(cell.cameras.values())).image_size
        drawn = (size[0] // DRAWN, size[1] // DRAWN)
        config = fixed_looks(sensors.SensorConfig(*drawn, capacity, **_faults(sensors.preset(preset))))
        self._sense, self._body, self._cell, self._keys = rollout.make_sense(state, simulators(cell, drawn), config), body, cell, jax.random
        self._trial, self._seen, self._lock = jax.random.key(seed), 0, threading.Lock()
        self._lenses = {name: _lens(camera, drawn) for name, camera in cell.cameras.items()}
        self._devices = software_devices(cell)

    def frames(self) -> dict[str, Frame]:
        """The world of now."""
        with self._lock:
            taken_s = time.monotonic()
            rgb, depth_m = self._draw(self._body.state()["qpos"])
            self._seen += 1
            return {name: self._frame(name, rgb[i], depth_m[i], taken_s) for i, name in enumerate(CAMERAS)}

    def _draw(self, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        past, mask = np.zeros((1, 50, 14), np.float32), np.zeros((1, 50), bool)
        moment = self._keys.fold_in(self._trial, 1 + self._seen)
        seen = self._sense(qpos[None, None], past, mask, moment[None], self._trial[None])
        return np.asarray(seen.rgb[0]), np.asarray(seen.depth_m[0])

    def _frame(self, name: str, rgb: np.ndarray, depth_m: np.ndarray, taken_s: float) -> Frame:
        camera, index = self._cell.cameras[name], self._lenses[name]
        rgb, depth_m = (image.reshape(-1, *image.shape[2:])[index] for image in (rgb, depth_m))
        if self._devices:
            return self._devices[name](rgb, depth_m, taken_s)
        return Frame(rgb, round_depth(depth_m), taken_s, camera.intrinsics, camera.distortion, camera.serial)

    def close(self) -> None:
        """Stop the software devices."""
        for device in self._devices.values():
            device.close()


def _faults(config: Any) -> dict[str, Any]:
    """A preset's faults without what a calibration does here: cameras truly stand elsewhere."""
    kept = {name: value for name, value in config._asdict().items() if name not in ("height", "width", "capacity")}
    return kept | {"camera_jitter_m": 0.0, "camera_jitter_rad": 0.0, "image_delay_s": 0.0, "joint_delay_s": 0.0}


def _lens(camera: files.CalibratedCamera, drawn: tuple[int, int]) -> np.ndarray:
    """(h, w) flat index of the pixel of a pinhole's image of size `drawn` that a lens shows at each of its own; borders go on outside."""
    rays = directions(pixel_centres(*camera.image_size), camera.intrinsics, camera.distortion)
    fx, fy, cx, cy = files.scaled(camera.intrinsics, camera.image_size, drawn)
    column = np.clip(np.floor(fx * rays[:, 0] + cx + ROUNDING), 0, drawn[1] - 1).astype(int)
    row = np.clip(np.floor(fy * rays[:, 1] + cy + ROUNDING), 0, drawn[0] - 1).astype(int)
    return (row * drawn[1] + column).reshape(camera.image_size)


def simulators(cell: CellCalibration, size: tuple[int, int]) -> Any:
    """structs.Calibration of a cell, for the sensors, of images of `size` (height, width)."""
    from clamp_jax.structs import Calibration

    values = files.fields(cell, size)
    return Calibration(*(getattr(values, name) for name in Calibration._fields))


def software_devices(cell: CellCalibration) -> dict[str, Any]:
    """librealsense's software device for each camera; none where the vendor's library is not installed."""
    try:
        from experiments.software_d405 import SoftwareD405
    except ImportError:
        return {}
    return {name: SoftwareD405(name, camera) for name, camera in cell.cameras.items()}


class StandIn(NamedTuple):
    """A connected stand-in."""

    connected: Connected
    body: Body


@contextlib.contextmanager
def stand_in(
    task: str, truth: CellCalibration, told: CellCalibration | None, size: tuple[int, int] | None = None, *, preset: str = "d405"
) -> Iterator[StandIn]:
    """A cell that is as `truth` and is taken to be as `told`; what the robot observes has `size` (height, width)."""
    with contextlib.ExitStack() as stack:
        body = stack.enter_context(contextlib.closing(Body(task)))
        cameras = stack.enter_context(contextlib.closing(D405s(body, task, truth, preset=preset)))
        cameras.frames()  # compiles, before the arms' watchdogs are on and a recorder counts the seconds
        robot = stack.enter_context(ViperX(body.ports, *sized(cameras, told, size), motion=MOTION))
        yield StandIn(Connected(robot, cameras, told, None), body)
