"""Requests that are of the right type and shape, and are refused all the same; and openpi's observations."""

import contextlib

import deployed
import msgpack
import numpy as np
import pytest
from websockets.sync.client import connect

from clamp_jax.deploy import request
from clamp_jax.deploy.server import Settings, serving

EYE = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1))


def calibration(**changes):
    known = {"intrinsics": np.full((4, 4), 9, np.float32), "parent_from_camera": EYE, "world_from_base": EYE[:2]}
    return {"calibration": known | changes, "calibration_id": None}


def away(distance_m):
    matrices = EYE.copy()
    matrices[2, 0, 3] = distance_m
    return matrices


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"state": np.rad2deg(deployed.HOME).astype(np.float32)}, "this looks like degrees"),
        ({"past_actions": np.full((50, 14), 1e38, np.float32)}, "'past_actions' reaches 1e+38"),
        ({"frozen_actions": np.full((2, 14), -11, np.float32)}, "'frozen_actions' reaches 11; expected at most 10"),
        ({"state": [1e300] * 14}, "'joints' has 14 values that are not finite"),
        ({"state": ["0"] * 14}, "'state' has a str in its list"),
        ({"state": [[0.0], [{}]]}, "'state' has a dict in its list"),
        ({"state": [2**63, -1] * 7}, "'joints'"),
        (calibration(parent_from_camera=away(250)), "'parent_from_camera' reaches 250; expected at most 100 in metres"),
        (calibration(world_from_base=away(1e38)[2:]), "'world_from_base' reaches 1e+38"),
        (calibration(intrinsics=np.full((4, 4), 1e9, np.float32)), "'intrinsics' reaches 1e+09"),
        (calibration(intrinsics={"overhead": np.ones(4), "top": np.ones(4)}), "has unknown ['calibration/intrinsics/top']"),
        ({"request_id": "a\nb"}, "request_id is 'a\\nb'; expected a finite number or a printable string"),
        ({"request_id": np.nan}, "request_id is nan"),
        ({"client_time": np.inf}, "client_time is inf"),
    ],
)
def test_values_that_make_no_sense_are_named(changes, found):
    with pytest.raises(ValueError) as refused:
        request.check_request(deployed.message(**changes), deployed.specification())
    assert found in str(refused.value)


def test_texts_in_a_list_are_refused_before_numpy_pads_them():
    texts = ["x" * 2**24, *["y"] * 4000]  # as an array: 250 GB
    with pytest.raises(ValueError, match="'state' has a str in its list"):
        request.check_request(deployed.message(state=texts), deployed.specification())


def test_what_is_missing_and_what_is_unknown_stand_in_one_text_cameras_included():
    sent = {"state": np.zeros(14), "images": {"cam_high": 0, "cam_low": 0}, "prompt": "x"}
    with pytest.raises(ValueError) as refused:
        request.check_request(sent, deployed.specification())
    text = str(refused.value)
    for name in ("depth_m", "past_actions", "past_mask", "calibration or calibration_id", "images/overhead", "images/wrist_right"):
        assert f"'{name}'" in text.partition("unknown")[0]
    assert "'images/cam_high', 'images/cam_low'" in text.partition("unknown")[2] and len(text) < 480


def encode(value):
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def decode(found):
    if b"__ndarray__" in found:
        return np.ndarray(buffer=found[b"data"], dtype=np.dtype(found[b"dtype"]), shape=found[b"shape"])
    return np.dtype(found[b"dtype"]).type(found[b"data"]) if b"__npgeneric__" in found else found


class OpenpiClient:
    """What openpi's client library does on the wire: whatever it is given is packed as it is, and a text is an error."""

    def __init__(self, stack, url, api_key):
        headers = {"Authorization": f"Api-Key {api_key}"}
        self.socket = stack.enter_context(connect(url, compression=None, max_size=None, additional_headers=headers, proxy=None))
        self.metadata = msgpack.unpackb(self.socket.recv(), object_hook=decode)

    def infer(self, observation):
        self.socket.send(msgpack.Packer(default=encode).pack(observation))
        reply = self.socket.recv()
        if isinstance(reply, str):
            raise RuntimeError(f"Error in inference server:\n{reply}")
        return msgpack.unpackb(reply, object_hook=decode)


def test_openpis_client_is_told_what_its_own_observation_lacks_and_served_with_the_rest():
    cameras = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    theirs = {"state": np.ones(14), "images": {name: np.zeros((3, 224, 224), np.uint8) for name in cameras}, "prompt": "do something"}
    settings = Settings(port=0, api_key="k")
    with serving(deployed.StubPolicy(), deployed.warm(), settings) as url, contextlib.ExitStack() as stack:
        with pytest.raises(RuntimeError, match=r"lacks .*'depth_m'.*'images/overhead'.*has unknown .*'images/cam_high'"):
            OpenpiClient(stack, url, "k").infer(theirs)
        client = OpenpiClient(stack, url, "k")  # made from the metadata alone
        told = client.metadata
        shape = tuple(told["image_size"])
        ours = {
            "images": {name: np.zeros((*shape, 3), np.uint8) for name in told["cameras"]},
            "depth_m": {name: np.zeros(shape, np.float32) for name in told["cameras"]},
            "state": np.arange(14) / 40,  # float64, as numpy makes it
            "past_actions": np.zeros((told["history"], 14)),
            "past_mask": np.zeros(told["history"], bool),
            "calibration_id": told["calibration_id"],
            "prompt": told["instruction"],
        }
        for _ in range(2):
            reply = client.infer(ours)
            np.testing.assert_array_equal(reply["actions"], np.tile(np.float32(ours["state"]), (50, 1)))
        assert {"infer_ms", "prev_total_ms"} <= reply["server_timing"].keys()
        channels_first = {name: np.zeros((3, *shape), np.uint8) for name in told["cameras"]}
        with pytest.raises(RuntimeError, match=r"channels first; expected them last, .*np\.moveaxis"):
            client.infer(ours | {"images": channels_first})
