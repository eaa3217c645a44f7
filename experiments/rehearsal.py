"""What people do in a real cell, done by scripts in its stand-in: calibrate it, put things back, demonstrate, count successes."""

import collections
import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from clamp_jax.deploy import control
from clamp_jax.deploy.calibration import CellCalibration, nominal
from clamp_jax.deploy.client import Client
from clamp_jax.deploy.imaging import SizedCameras
from clamp_jax.deploy.projection import rigid
from clamp_jax.deploy.robots import Robot
from clamp_jax.deploy.robots.kept import Kept
from clamp_jax.deploy.robots.viperx import ViperX
from clamp_jax.deploy.safety import Safety
from clamp_jax.sim import experts, rollout, scene, tasks
from clamp_jax.sim.rollout import HOME_ACTION
from data_tools.calibrate import trials
from data_tools.calibrate.__main__ import calibrate
from data_tools.calibrate.simulated import Painter
from data_tools.calibrate.station import RobotStation
from data_tools.generate import AFTER_SUCCESS
from data_tools.record.follow import go, way
from data_tools.record.keys import Nobody
from data_tools.record.loop import Settings, record_episode
from data_tools.record.packing import pack
from data_tools.record.store import Store
from data_tools.record.stream import RecordingStopped
from experiments import driving, standin
from experiments.standin import Body, StandIn

EMPTY = "stack_blocks"  # a scene whose things can be put away
AWAY_M = 2.0  # from the table's middle: where things are put that are in the way
OFF_M = 0.03  # of a calibration that was left as it was
TALK = 5  # ticks between two looks at whether a trial is won
SETTLE_S = 0.5  # after the arms have come home
LONGEST_S = 20.0  # of an episode
APART = 100  # between the seeds of two episodes: an episode whose reset has no plan takes the next one
CONNECT_S = 30.0  # how long to wait for a server

Tell = Callable[[int, int, str], None]


class Truth(NamedTuple):
    """A cell that is not as drawn."""

    cell: CellCalibration  # where its cameras are; the bases stand as drawn
    hidden: trials.Hidden


def hide(seed: int) -> Truth:
    """Cameras up to 3 cm and 3 degrees away from the drawing, with lenses; bases as drawn, for the experts know no others."""
    hidden = trials.hide(np.random.default_rng(seed), standin.SIZE)
    hidden = hidden._replace(unknowns=hidden.unknowns._replace(bases=nominal(*standin.SIZE).world_from_base))
    painter = Painter(hidden, np.random.default_rng(seed), size=standin.SIZE, arms=False)
    cameras = {name: camera._replace(serial=f"standin-{name}") for name, camera in painter.cell.cameras.items()}
    return Truth(painter.cell._replace(cameras=cameras), hidden)


def left_off(cell: CellCalibration, seed: int, metres: float = OFF_M) -> CellCalibration:
    """A calibration that says each camera `metres` from where it is, in a direction of its own."""
    rng, cameras = np.random.default_rng([seed, 1]), {}
    for name, camera in cell.cameras.items():
        way = rng.normal(size=3)
        shift = rigid(np.concatenate([np.zeros(3), metres * way / np.linalg.norm(way)]))
        cameras[name] = camera._replace(parent_from_camera=camera.parent_from_camera @ shift)
    return cell._replace(cameras=cameras)


class BoardCameras:
    """Cameras of an empty cell with the boards in it; `holder` is the arm that shows the plate."""

    def __init__(self, body: Body, truth: Truth, seed: int):
        self._body, self.holder = body, ""
        self._see = Painter(truth.hidden, np.random.default_rng([seed, 2]), size=standin.SIZE)
        self._serials = {name: camera.serial for name, camera in truth.cell.cameras.items()}

    def frames(self) -> dict[str, Any]:
        """By camera: what it sees now."""
        seen = self._see(self._body.joints(), self.holder)
        return {name: image._replace(serial=self._serials[name]) for name, image in seen.items()}


class PlateStation(RobotStation):
    """A station whose person is always there with the plate."""

    def __init__(self, robot: Robot, cameras: BoardCameras):
        super().__init__(robot, cameras, ask=lambda text: None)
        self._boards = cameras

    def hold(self, side: str) -> None:
        """As asked for."""
        super().hold(side)
        self._boards.holder = side


def find(truth: Truth, poses: int, seed: int) -> tuple[CellCalibration, Any, Any]:
    """Calibrate the stand-in of a cell through its buses and cameras; the calibration, the solution and what was seen."""
    body = Body(EMPTY)
    try:
        put_away(body)
        cameras = BoardCameras(body, truth, seed)
        cameras.frames()  # compiles before the servos' watchdogs are on
        with ViperX(body.ports, motion=standin.MOTION) as arms, Kept(arms) as robot:
            found = calibrate(PlateStation(robot, cameras), poses, seed=seed)
            robot.rest()
            return found
    finally:
        body.close()


def put_away(body: Body) -> None:
    """Take all things off the table."""
    qpos = body.state()["qpos"].copy()
    for number, start in enumerate(range(16, len(qpos), 7)):  # blocks are free bodies: place, then quaternion
        qpos[start : start + 3] = AWAY_M, number, 0.0
    body.put(qpos, 0)


def home(robot: Robot, safety: Safety) -> None:
    """Bring the arms to where episodes begin; UnsafeWay where the way there is not safe."""
    last = robot.joints()
    go(robot, way(safety, np.asarray(HOME_ACTION, float), last, alive=robot.joints))
    time.sleep(SETTLE_S)


def begin(robot: Robot, body: Body, qpos: np.ndarray, variant: int) -> None:
    """The arms home, the things where a trial begins."""
    home(robot, Safety(robot.limits))
    body.put(qpos, variant)


class Script:
    """An expert's commands as a source of the recorder."""

    def __init__(self, actions: np.ndarray):
        self._actions = actions

    def command(self, joints: np.ndarray, tick: int) -> np.ndarray | None:
        """The command (14,) of a tick; None when there are no more."""
        del joints
        return np.asarray(self._actions[tick], float) if tick < len(self._actions) else None


class Expert:
    """Resets of a task, and what the expert does from them."""

    def __init__(self, task_name: str):
        self._task, self._scene = tasks.get(task_name), scene.build(task_name)
        self._reset = jax.jit(self._task.reset)

    def plan(self, seed: int) -> tuple[np.ndarray, int, Script]:
        """(qpos, variant, script) of the first reset from `seed` on for which there is a plan."""
        for number in itertools.count(seed):
            qpos, variant = (np.asarray(part) for part in self._reset(jax.random.key(number)))
            with contextlib.suppress(experts.PlanError, experts.IKError):
                actions = experts.plan(self._task, self._scene, qpos, int(variant), number)
                return qpos, int(variant), Script(np.concatenate([actions, np.repeat(actions[-1:], AFTER_SUCCESS, axis=0)]))
        raise AssertionError("there are resets without end")

    def instruction(self, variant: int) -> str:
        """The sentence of a variant."""
        return self._task.instructions[variant]


class Recording(NamedTuple):
    """What is recorded."""

    task: str
    episodes: int
    images_hz: float
    seed: int  # of the first episode's reset
    side: int  # pixels of the square images


def record(out: Path, truth: Truth, calibration: CellCalibration, how: Recording, tell: Tell) -> dict[str, Any]:
    """Record an expert's episodes into `out` and make the data set `out`/data; what is there already is kept.

    An episode in which the task was not done is dropped, as a person would. Returns counts, and seconds by episode.
    """
    size, expert, seconds, missed, stopped = (how.side, how.side), Expert(how.task), [], 0, 0
    with Store(out) as store, standin.stand_in(how.task, truth.cell, calibration, size) as stand:
        settings = Settings(how.task, "", calibration, seconds=LONGEST_S, size=size, images_hz=how.images_hz)
        cameras = SizedCameras(stand.connected.cameras, calibration, size)
        with Kept(stand.connected.robot) as robot:
            while (done := len(store.finished())) < how.episodes:
                path, began = store.next(), time.monotonic()
                qpos, variant, script = expert.plan(how.seed + APART * int(path.stem))
                begin(robot, stand.body, qpos, variant)
                told = settings._replace(instruction=expert.instruction(variant))
                try:
                    result = record_episode(robot, cameras, script, told, Nobody(), path=path)
                except RecordingStopped:  # this computer was busy: a person records the episode again
                    stopped += 1
                    if stopped > how.episodes:
                        raise
                    continue
                if not stand.body.state()["success"]:
                    store.drop(result.path)
                seconds.append(time.monotonic() - began)
                missed += result.missed
                tell(done + 1, how.episodes, f"{len(list(store.folder.glob('*.dropped')))} dropped")
        dropped = len(list(store.folder.glob("*.dropped")))
    pack(out)
    counts = {"episodes": how.episodes, "dropped": dropped, "stopped": stopped, "missed_ticks": missed}
    return counts | {"seconds_each": float(np.mean(seconds or [0.0]))}


class Trials(NamedTuple):
    """How a policy is tried."""

    task: str
    count: int
    seconds: float
    seed: int


def drive(stand: StandIn, url: str, how: Trials, tell: Tell) -> dict[str, Any]:
    """Try a served policy from the initial states of evaluation; {"successes", "trials", "won", ...}."""
    starts = rollout.initial_states(tasks.get(how.task), how.count, how.seed)
    won, reports = [], []
    with Client(url) as client:
        client.connect(CONNECT_S)
        for number, (qpos, variant) in enumerate(zip(starts.qpos, starts.variant, strict=True)):
            with Kept(stand.connected.robot) as robot:
                begin(robot, stand.body, qpos, int(variant))
            success, report = trial(stand, client, how, number)
            won.append(success)
            reports.append(report)
            tell(number + 1, how.count, f"{sum(won)} won")
    held: collections.Counter = collections.Counter()
    for report in reports:
        held.update(report.held)
    counts = {name: sum(getattr(report, name) for report in reports) for name in ("ticks", "missed_deadlines", "chunks", "discarded")}
    times = control.percentiles_ms(tuple(ms for report in reports for ms in report.latencies_ms))
    return {"successes": sum(won), "trials": len(won), "won": won, "held": dict(held), "observation_to_reply_ms": times} | counts


def trial(stand: StandIn, client: Client, how: Trials, number: int) -> tuple[bool, Any]:
    """One trial, ended when it is won or its time is over."""
    episode = driving.Episode(how.task, how.seconds, how.seed + number)
    looked = {"ticks": 0, "won": False}

    def over() -> bool:
        looked["ticks"] += 1
        if looked["ticks"] % TALK == 0:
            looked["won"] = stand.body.state()["success"]
        return looked["won"]

    times: list[float] = []
    report = driving.drive(stand.connected.robot, driving.planner(stand.connected.robot, client, times), episode, stop=over)
    return bool(looked["won"] or stand.body.state()["success"]), report
