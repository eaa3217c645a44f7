"""A marker with a cap that is pushed on: friction alone holds it, and it comes off where it is pulled.

Extents are the public simulator's (google-deepmind/aloha_sim, its Marker, measured over the meshes): body .0218 x .0218 x .126 m,
8.6 g, cap .0218 m across and .0277 m long, 1.5 g, .134 m over all: so .0197 m of the body is a plug inside the cap.
"""

import mujoco
import numpy as np

from clamp_jax.sim.objects.parts import collide, free_body, hide
from clamp_jax.sim.robot import BOX, CAPSULE, CONTAINER, CYLINDER, FINGER, PROP, SPHERE, TABLE, shape

LENGTH, BODY_LENGTH, CAP_LENGTH = 0.134, 0.126, 0.0277  # m
RADIUS = 0.0109  # m, of barrel and cap
# Barrel, plug and cap lie along y; the marker's frame is in the barrel's middle, the cap's in its own.
BARREL_HALF, CAP_HALF, PLUG_HALF = (LENGTH - CAP_LENGTH) / 2, CAP_LENGTH / 2, (BODY_LENGTH - LENGTH + CAP_LENGTH) / 2
CAP_Y, PLUG_Y = BARREL_HALF + CAP_HALF, BARREL_HALF + PLUG_HALF  # m, in the marker's frame, of the cap that is on and of the plug
PLUG_RADIUS = 0.006  # m
EDGE_RADIUS = 0.004  # m

# Ours: eight spheres inside the cap squeeze the plug, two to each of its sides, by so much. Soft, since a pyramidal cone answers
# speed with force where normals cannot give way: stiff as other contacts, the cap would stay on against 10 N. Measured, the
# marker held: its own weight moves the cap by .04 mm/s, 1 N by 4 mm/s, and 3 N pull it off in a quarter of a second.
_NUB_RADIUS, _SQUEEZE = 0.002, 0.0003  # m
_NUBS_Y = (-0.008, 0.004)  # m, along the cap
_FIT = {"condim": 3, "friction": (0.6, 0.6, 0.005, 0.0001, 0.0001), "solref": (-2000.0, -200.0), "solimp": (0.9, 0.9, 0.001, 0.5, 2.0)}

_ALONG_Y = (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0)  # wxyz: turns a cylinder's z into y
_BARREL_RGB, _CAP_RGB, _FELT_RGB = (0.92, 0.92, 0.90), (0.10, 0.25, 0.65), (0.12, 0.16, 0.35)


def add_marker(spec: mujoco.MjSpec) -> None:
    """Bodies "marker" and "cap", each on a free joint, the cap pushed on; qpos: 7 of each."""
    marker, cap = free_body(spec, "marker", RADIUS), free_body(spec, "cap", RADIUS)
    cap.pos[1] = CAP_Y
    shape(marker, CYLINDER, (PLUG_RADIUS, PLUG_HALF), pos=(0, PLUG_Y, 0), quat=_ALONG_Y, rgb=_FELT_RGB)
    plug = shape(marker, BOX, (PLUG_RADIUS, PLUG_HALF, PLUG_RADIUS), pos=(0, PLUG_Y, 0), name="plug")
    plug.mass = 0.0005
    collide(hide(plug), FINGER)
    # the cap's edges stop at the barrel's end
    collide(_add_round(marker, BARREL_HALF, _BARREL_RGB, 0.0081, TABLE), FINGER, CONTAINER)
    collide(_add_round(cap, CAP_HALF, _CAP_RGB, 0.0015, TABLE | CONTAINER), FINGER)
    _add_fit(spec, cap)


def edges(half: float) -> np.ndarray:
    """Ends (4, 2, 3) m of the centre lines of the four edges of barrel or cap, in its frame; they have EDGE_RADIUS."""
    at, end = RADIUS - EDGE_RADIUS, half - EDGE_RADIUS
    return np.array([[(x, y, z) for y in (-end, end)] for x in (-at, at) for z in (-at, at)])


def _add_round(body: mujoco.MjsBody, half: float, rgb: tuple[float, float, float], mass: float, under: int) -> mujoco.MjsGeom:
    """A cylinder for looks and four edges to lie on: square, so that it does not roll. Returns the hidden box that fingers are to meet."""
    shape(body, CYLINDER, (RADIUS, half), quat=_ALONG_Y, rgb=rgb)
    for ends in edges(half):
        collide(hide(shape(body, CAPSULE, (EDGE_RADIUS,), fromto=ends.ravel())), under, PROP)
    box = hide(shape(body, BOX, (RADIUS, half, RADIUS)))
    box.mass = mass
    return box


def _add_fit(spec: mujoco.MjSpec, cap: mujoco.MjsBody) -> None:
    reach = PLUG_RADIUS + _NUB_RADIUS - _SQUEEZE
    for i, y in enumerate(_NUBS_Y):
        for k, (x, z) in enumerate(((reach, 0), (-reach, 0), (0, reach), (0, -reach))):
            nub = hide(shape(cap, SPHERE, (_NUB_RADIUS,), pos=(x, y, z), name=f"nub_{i}{k}"))
            spec.add_pair(geomname1=nub.name, geomname2="plug", **_FIT)
