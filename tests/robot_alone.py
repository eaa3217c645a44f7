"""A robot's program that has the wheel clamp-client and nothing else of ours; Python 3.8. tests/test_client_wheel.py runs it.

It drives a toy robot at 50 Hz while a second thread observes and asks, says when it moves, when it has lost the server and when it
is back, and ends with a line of JSON.
"""

import importlib.util
import json
import queue
import sys
import threading
import time

import msgpack
import numpy as np
import websockets
from clamp_client import Client, Refused, Unavailable

PERIOD_S = 0.02
PATIENCE_S = 30.0


class ToyRobot:
    """Joints that go half of the way to the command in each period."""

    def __init__(self, joints):
        self.joints = np.array(joints, np.float32)
        self.past = np.zeros((0, 14), np.float32)

    def command(self, action):
        self.joints = (self.joints + (action - self.joints) / 2).astype(np.float32)
        self.past = np.concatenate([self.past, action[None].astype(np.float32)])[-50:]

    def observe(self, spec):
        height, width = spec["image_size"]
        done = len(self.past)
        return {
            "images": {name: np.zeros((height, width, 3), np.uint8) for name in spec["cameras"]},
            "depth_m": {name: np.full((height, width), 0.5, np.float32) for name in spec["cameras"]},
            "state": self.joints,
            "past_actions": np.concatenate([np.zeros((50 - done, 14), np.float32), self.past]),
            "past_mask": np.arange(50) >= 50 - done,
            "calibration_id": spec["calibration_id"],
        }


def ask(client, robot, chunks, over):
    """The second thread: observe, infer, hand on; what is unavailable is asked again."""
    while not over.is_set():
        try:
            reply = client.infer(robot.observe(client.connect(1.0)), timeout_s=1.0)
            chunks.put(reply["actions"])
            time.sleep(0.1)
        except Unavailable:
            chunks.put(None)


def drive(robot, chunks, say):
    """50 Hz until the robot has moved, lost its server, got it back and moved again; a hold sends nothing new."""
    chunk, at, moved, held, lost, back = None, 0, 0, 0, False, 0
    start, tick = time.monotonic(), 0
    while back < 100 and time.monotonic() < start + PATIENCE_S:
        time.sleep(max(start + tick * PERIOD_S - time.monotonic(), 0.0))
        tick += 1
        while not chunks.empty():
            new, at = chunks.get(), 0
            if new is not None and chunk is None:
                say("back" if lost else "moving")
            if new is None and chunk is not None and not lost:
                say("lost")
                lost = True
            chunk = new
        if chunk is None or at >= len(chunk):
            held += 1
            continue
        robot.command(chunk[at])
        at, moved, back = at + 1, moved + 1, back + lost
    return {"ticks": tick, "moved": moved, "held": held}


def refusal(client, request):
    """The server's words for a request without its state."""
    try:
        client.infer({name: value for name, value in request.items() if name != "state"}, timeout_s=PATIENCE_S)
    except Refused as error:
        return str(error)
    return ""


def late(client, request):
    """Whether a reply that came after its time was thrown away; the server is slow for seed 1."""
    try:
        client.infer(dict(request, seed=1), timeout_s=0.1)
    except Unavailable:
        client.infer(request, timeout_s=PATIENCE_S)
    return client.discarded == 1


def main(url):
    client = Client(url)
    spec = client.connect(PATIENCE_S)
    robot = ToyRobot(np.zeros(14))
    found = {"refusal": refusal(client, robot.observe(spec)), "late_thrown_away": late(client, robot.observe(spec))}
    chunks, over = queue.Queue(), threading.Event()
    thread = threading.Thread(target=ask, args=(client, robot, chunks, over))
    thread.start()
    found.update(drive(robot, chunks, lambda word: print(word, flush=True)))
    over.set()
    thread.join()
    client.close()
    versions = {"python": sys.version.split()[0], "numpy": np.__version__, "msgpack": msgpack.version, "websockets": websockets.__version__}
    there = [name for name in ("jax", "flax", "clamp_jax", "mujoco") if importlib.util.find_spec(name)]
    print(json.dumps(dict(found, joints=robot.joints.tolist(), versions=versions, there=there)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
