"""Furniture and tools of primitives with the published extents; colliders are boxes, capsules and spheres only.

Where the shape that touches is simpler than the shape that is seen, the first is hidden from the cameras.
"""

import mujoco

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.robot import BOX, CAPSULE, CONTAINER, CYLINDER, FINGER, HIDDEN, PROP, SPHERE, TABLE, shape

_WOOD, _DARK_WOOD, _FRONT, _KNOB = (0.45, 0.27, 0.14), (0.32, 0.18, 0.09), (0.72, 0.55, 0.36), (0.90, 0.88, 0.80)

# Jewelry box: frame at the middle of the bottom, drawers open along -y.
DRAWERS = ("top", "middle", "bottom")
DRAWER_HEIGHTS = {"top": 0.068, "middle": 0.040, "bottom": 0.012}  # m, middle of a drawer above the box's frame
DRAWER_TRAVEL = 0.1  # m
BOX_HALF = (0.120, 0.069, 0.04175)  # m, the carcass
KNOB_RADIUS, KNOB_Y = 0.005, -0.080  # m, middle of a knob in its drawer's frame
FRONT_HALF, FRONT_Y = (0.111, 0.0022, 0.0105), -0.0712  # m


def collide(geom: mujoco.MjsGeom, touches: int, group: int = PROP) -> mujoco.MjsGeom:
    """Let a geom of a group touch the named groups (TABLE, FINGER, PROP, CONTAINER)."""
    geom.contype, geom.conaffinity = group, touches
    return geom


def add_jewelry_box(spec: mujoco.MjSpec) -> None:
    """A box with three drawers on a free joint: bodies "jewelry_box" and "<top|middle|bottom>_drawer".

    .240 x .143 x .084 m over all; qpos: 7 of the box, then the slides of top, middle and bottom (0 closed to 0.1 m).
    """
    body = spec.worldbody.add_body(name="jewelry_box", pos=(0, 0, TABLE_TOP_Z))
    body.add_freejoint(name="jewelry_box")
    half_x, half_y, half_z = BOX_HALF
    for side in (-1, 1):
        shape(body, BOX, (0.004, half_y, half_z), pos=(side * (half_x - 0.004), 0, half_z), rgb=_WOOD)
        shape(body, BOX, (half_x - 0.008, half_y, 0.001), pos=(0, 0, half_z + side * (half_z - 0.001)), rgb=_DARK_WOOD)
    shape(body, BOX, (half_x - 0.008, 0.003, half_z - 0.002), pos=(0, half_y - 0.003, half_z), rgb=_DARK_WOOD)
    solid = shape(body, BOX, BOX_HALF, pos=(0, 0, half_z), name="jewelry_box")
    solid.group, solid.mass = HIDDEN, 0.4072
    collide(solid, TABLE | FINGER)
    for name in DRAWERS:
        _add_drawer(body, name)


def _add_drawer(box: mujoco.MjsBody, name: str) -> None:
    """One drawer with its knob on a stem: a tray for looks; front and knob can be touched."""
    body = box.add_body(name=f"{name}_drawer", pos=(0, 0, DRAWER_HEIGHTS[name]))
    slide = body.add_joint(name=f"{name}_drawer", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, -1, 0), range=(0, DRAWER_TRAVEL))
    slide.damping = (5.0, 0, 0)
    front = shape(body, BOX, FRONT_HALF, pos=(0, FRONT_Y, 0), rgb=_FRONT, name=f"{name}_front")
    front.mass = 0.0187
    collide(front, FINGER)
    knob = shape(body, SPHERE, (KNOB_RADIUS,), pos=(0, KNOB_Y, 0), rgb=_KNOB, name=f"{name}_knob")
    knob.mass = 0.001
    collide(knob, FINGER)
    shape(body, CAPSULE, (0.002,), fromto=(0, FRONT_Y, 0, 0, KNOB_Y, 0), rgb=_KNOB)
    shape(body, BOX, (0.100, 0.057, 0.001), pos=(0, -0.012, -0.0075), rgb=_WOOD)
    shape(body, BOX, (0.100, 0.002, 0.0085), pos=(0, 0.047, 0), rgb=_WOOD)
    for side in (-1, 1):
        shape(body, BOX, (0.003, 0.057, 0.0085), pos=(side * 0.100, -0.012, 0), rgb=_WOOD)


# Caddy: frame at the middle of the bottom, two open compartments side by side along x under a handle.
CADDY_HALF, CADDY_WALL, CADDY_RIM = (0.081, 0.1135), 0.003, 0.088  # m: half extents, half a wall's thickness, height of the walls
_BLUE, _LIGHT_BLUE = (0.25, 0.50, 0.78), (0.45, 0.66, 0.88)

# Half extents (m) of each tool about its frame, which stands in the middle of them.
TOOLS = {
    "can_opener": (0.077, 0.0215, 0.0265),
    "screwdriver": (0.1315, 0.020, 0.0205),
    "magnifier": (0.077, 0.0315, 0.0095),
    "thumb_drive": (0.036, 0.0105, 0.0065),
    "scissors": (0.040, 0.1055, 0.009),
}


def add_caddy(spec: mujoco.MjSpec) -> None:
    """A caddy of .162 x .227 x .121 m that slides on the table along x and y: body "caddy", qpos its x and y in the world.

    Ours: two slides with the friction of its weight in place of a free joint save MJX a box on a plane; it neither tips nor
    turns (no reset turns it either). Its floor is the table's top: a tool in it rests there.
    """
    rail = spec.worldbody.add_body(name="caddy_rail", pos=(0, 0, TABLE_TOP_Z))
    body = rail.add_body(name="caddy")
    for part, axis, mass in ((rail, (1, 0, 0), 0.05), (body, (0, 1, 0), 0.40)):
        part.explicitinertial, part.mass, part.inertia = True, mass, (0.002, 0.002, 0.002)
        slide = part.add_joint(name=f"{part.name}_slide", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
        slide.damping, slide.frictionloss = (5.0, 0, 0), 2.0
    half_x, half_y, half_z = *CADDY_HALF, CADDY_RIM / 2
    walls = [((sign * (half_x - CADDY_WALL), 0, half_z), (CADDY_WALL, half_y, half_z)) for sign in (-1, 1)]
    walls += [((0, sign * (half_y - CADDY_WALL), half_z), (half_x - 2 * CADDY_WALL, CADDY_WALL, half_z)) for sign in (-1, 1)]
    walls += [((0, 0, half_z), (CADDY_WALL, half_y - 2 * CADDY_WALL, half_z))]
    for pos, size in walls:
        collide(shape(body, BOX, size, pos=pos, rgb=_BLUE), FINGER, CONTAINER)
    shape(body, BOX, (half_x - 2 * CADDY_WALL, half_y - 2 * CADDY_WALL, 0.0005), pos=(0, 0, 0.0005), rgb=_LIGHT_BLUE)
    _add_handle(body)


def _add_handle(caddy: mujoco.MjsBody) -> None:
    bar = shape(caddy, CAPSULE, (0.008,), fromto=(0, -0.06, 0.113, 0, 0.06, 0.113), rgb=_LIGHT_BLUE, name="caddy_handle")
    collide(bar, FINGER, CONTAINER)
    for sign in (-1, 1):
        shape(caddy, BOX, (0.003, 0.008, 0.014), pos=(0, sign * 0.052, 0.101), rgb=_LIGHT_BLUE)


def _add_tool(spec: mujoco.MjSpec, name: str) -> mujoco.MjsBody:
    body = spec.worldbody.add_body(name=name, pos=(0, 0, TABLE_TOP_Z + TOOLS[name][2]))
    body.add_freejoint(name=name)
    return body


def add_can_opener(spec: mujoco.MjSpec) -> None:
    """Two handles along x and an upright head at -x; all of it touches table, fingers and caddy."""
    body, (half_x, half_y, half_z) = _add_tool(spec, "can_opener"), TOOLS["can_opener"]
    radius, spread = 0.0085, 0.0085
    for sign in (-1, 1):
        ends = (-half_x + half_y, sign * spread, radius - half_z, half_x - radius, sign * spread, radius - half_z)
        handle = shape(body, CAPSULE, (radius,), fromto=ends, rgb=(0.78, 0.10, 0.10))
        handle.mass = 0.02
        collide(handle, TABLE | FINGER | CONTAINER)
    x, z = half_y - half_x, half_z - half_y
    head = shape(body, CAPSULE, (half_y,), fromto=(x, 0, -z, x, 0, z), rgb=(0.75, 0.76, 0.78))
    head.mass = 0.03
    collide(head, TABLE | FINGER | CONTAINER)


def add_distractors(spec: mujoco.MjSpec) -> None:
    """Screwdriver, magnifier, thumb drive and scissors. Ours: they touch table and fingers, not the caddy or one another."""
    _add_screwdriver(spec)
    _add_magnifier(spec)
    half = TOOLS["thumb_drive"]
    _solid(_add_tool(spec, "thumb_drive"), half, (0, 0, 0), rgb=(0.12, 0.12, 0.14), mass=0.02)
    _add_scissors(spec)


def _solid(body: mujoco.MjsBody, half: tuple, pos: tuple, *, rgb: tuple, mass: float, touches: int = TABLE | FINGER) -> mujoco.MjsGeom:
    box = shape(body, BOX, half, pos=pos, rgb=rgb)
    box.mass = mass
    return collide(box, touches)


def _add_screwdriver(spec: mujoco.MjSpec) -> None:
    body, (half_x, half_y, half_z) = _add_tool(spec, "screwdriver"), TOOLS["screwdriver"]
    _solid(body, (0.055, half_y, half_z), (0.055 - half_x, 0, 0), rgb=(0.92, 0.55, 0.08), mass=0.07)
    shaft = shape(body, CAPSULE, (0.005,), fromto=(0.105 - half_x, 0, 0, half_x - 0.005, 0, 0), rgb=(0.62, 0.63, 0.66))
    shaft.mass = 0.02
    collide(shaft, FINGER)


def _add_magnifier(spec: mujoco.MjSpec) -> None:
    """The lens carries the tool; its hidden box is what touches, the cylinder is what is seen."""
    body, (half_x, half_y, half_z) = _add_tool(spec, "magnifier"), TOOLS["magnifier"]
    lens = half_y - half_x
    _solid(body, (half_y, half_y, half_z), (lens, 0, 0), rgb=(0, 0, 0), mass=0.04).group = HIDDEN
    shape(body, CYLINDER, (half_y, half_z), pos=(lens, 0, 0), rgb=(0.55, 0.75, 0.80))
    handle = half_x - half_y
    _solid(body, (handle, 0.009, half_z), (half_y, 0, 0), rgb=(0.15, 0.35, 0.20), mass=0.01, touches=FINGER)


def _add_scissors(spec: mujoco.MjSpec) -> None:
    """Length along y: blades at -y, two bows at y on a hidden box that carries the tool."""
    body, (half_x, half_y, half_z) = _add_tool(spec, "scissors"), TOOLS["scissors"]
    _solid(body, (half_x, 0.045, half_z), (0, half_y - 0.045, 0), rgb=(0, 0, 0), mass=0.04).group = HIDDEN
    top, side, pink = half_y - half_z, half_x - half_z, (0.80, 0.12, 0.35)
    for sign in (-1, 1):
        shape(body, CAPSULE, (half_z,), fromto=(sign * 0.012, 0.015, 0, sign * side, top, 0), rgb=pink)
    shape(body, CAPSULE, (half_z,), fromto=(-side, top, 0, side, top, 0), rgb=pink)
    _solid(body, (0.012, 0.060, 0.003), (0, 0.060 - half_y, 0), rgb=(0.68, 0.69, 0.72), mass=0.01, touches=FINGER)
