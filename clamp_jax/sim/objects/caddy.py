"""The caddy, and the tools that go into it."""

import mujoco

from clamp_jax.sim.objects.parts import collide, free_body, hide, sliding_body
from clamp_jax.sim.robot import BOX, CAPSULE, CONTAINER, CYLINDER, FINGER, TABLE, shape

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
DRIVER_HANDLE = 0.110  # m of the screwdriver's length, at its -x end


def add_caddy(spec: mujoco.MjSpec) -> None:
    """A caddy of .162 x .227 x .121 m that slides on the table along x and y: body "caddy", qpos its x and y in the world.

    It does not turn (no reset turns it either). Its floor is the table's top: a tool in it rests there.
    """
    body = sliding_body(spec, "caddy", mass=0.40, friction=2.0)
    half_x, half_y, half_z = *CADDY_HALF, CADDY_RIM / 2
    walls = [((sign * (half_x - CADDY_WALL), 0, half_z), (CADDY_WALL, half_y, half_z)) for sign in (-1, 1)]
    walls += [((0, sign * (half_y - CADDY_WALL), half_z), (half_x - 2 * CADDY_WALL, CADDY_WALL, half_z)) for sign in (-1, 1)]
    walls += [((0, 0, half_z), (CADDY_WALL, half_y - 2 * CADDY_WALL, half_z))]
    for pos, size in walls:
        collide(shape(body, BOX, size, pos=pos, rgb=_BLUE), FINGER, CONTAINER)
    shape(body, BOX, (half_x - 2 * CADDY_WALL, half_y - 2 * CADDY_WALL, 0.0005), pos=(0, 0, 0.0005), rgb=_LIGHT_BLUE)
    bar = shape(body, CAPSULE, (0.008,), fromto=(0, -0.06, 0.113, 0, 0.06, 0.113), rgb=_LIGHT_BLUE, name="caddy_handle")
    collide(bar, FINGER, CONTAINER)
    for sign in (-1, 1):
        shape(body, BOX, (0.003, 0.008, 0.014), pos=(0, sign * 0.052, 0.101), rgb=_LIGHT_BLUE)


def add_tools(spec: mujoco.MjSpec, target: str) -> None:
    """All TOOLS in their order; ours: `target` alone touches the caddy, the others table and fingers, none another tool.

    What touches the caddy are capsules, since MJX meets boxes with boxes slowly.
    """
    for name in TOOLS:
        add_tool(spec, name, CONTAINER if name == target else 0)


def add_tool(spec: mujoco.MjSpec, name: str, caddy: int = 0) -> None:
    """One of TOOLS on a free joint of its name; caddy: CONTAINER if it touches the caddy."""
    body = free_body(spec, name, TOOLS[name][2])
    _ADD[name](body, TOOLS[name], caddy)


def _solid(body: mujoco.MjsBody, half: tuple, pos: tuple, *, rgb: tuple, mass: float, touches: int = TABLE | FINGER) -> mujoco.MjsGeom:
    box = shape(body, BOX, half, pos=pos, rgb=rgb)
    box.mass = mass
    return collide(box, touches)


def _in_caddy(body: mujoco.MjsBody, caddy: int, radius: float, start: tuple, stop: tuple, touches: int = 0) -> None:
    """A hidden capsule that meets the caddy, if the tool may; `touches` besides."""
    if caddy:
        collide(hide(shape(body, CAPSULE, (radius,), fromto=(*start, *stop))), caddy | touches)


def _add_can_opener(body: mujoco.MjsBody, half: tuple, caddy: int) -> None:
    """Two handles along x and an upright head at -x."""
    half_x, half_y, half_z = half
    radius, spread = 0.0085, 0.0085
    for sign in (-1, 1):
        ends = (-half_x + half_y, sign * spread, radius - half_z, half_x - radius, sign * spread, radius - half_z)
        handle = shape(body, CAPSULE, (radius,), fromto=ends, rgb=(0.78, 0.10, 0.10))
        handle.mass = 0.02
        collide(handle, TABLE | FINGER | caddy)
    x, z = half_y - half_x, half_z - half_y
    head = shape(body, CAPSULE, (half_y,), fromto=(x, 0, -z, x, 0, z), rgb=(0.75, 0.76, 0.78))
    head.mass = 0.03
    collide(head, TABLE | FINGER | caddy)


def _add_screwdriver(body: mujoco.MjsBody, half: tuple, caddy: int) -> None:
    """Handle at -x, shaft to x; its tip stands on the floor of a caddy."""
    half_x, half_y, half_z = half
    middle, radius = DRIVER_HANDLE / 2, 0.005
    _solid(body, (middle, half_y, half_z), (middle - half_x, 0, 0), rgb=(0.92, 0.55, 0.08), mass=0.07)
    start, stop = (DRIVER_HANDLE - radius - half_x, 0, 0), (half_x - radius, 0, 0)
    shaft = shape(body, CAPSULE, (radius,), fromto=(*start, *stop), rgb=(0.62, 0.63, 0.66))
    shaft.mass = 0.02
    collide(shaft, FINGER | (TABLE | caddy if caddy else 0))
    _in_caddy(body, caddy, half_y, (half_y - half_x, 0, 0), (DRIVER_HANDLE - half_y - half_x, 0, 0))


def _add_magnifier(body: mujoco.MjsBody, half: tuple, caddy: int) -> None:
    """The lens at -x carries the tool; its hidden box is what touches, the cylinder is what is seen."""
    half_x, half_y, half_z = half
    lens = half_y - half_x
    hide(_solid(body, (half_y, half_y, half_z), (lens, 0, 0), rgb=(0, 0, 0), mass=0.04))
    shape(body, CYLINDER, (half_y, half_z), pos=(lens, 0, 0), rgb=(0.55, 0.75, 0.80))
    handle = half_x - half_y
    _solid(body, (handle, 0.009, half_z), (half_y, 0, 0), rgb=(0.15, 0.35, 0.20), mass=0.01, touches=FINGER)
    _in_caddy(body, caddy, half_z, (lens, 0, 0), (half_x - half_z, 0, 0), TABLE)
    for sign in (-1, 1):
        y = sign * (half_y - half_z)
        _in_caddy(body, caddy, half_z, (lens - 0.01, y, 0), (lens + 0.01, y, 0))


def _add_thumb_drive(body: mujoco.MjsBody, half: tuple, caddy: int) -> None:
    del caddy
    _solid(body, half, (0, 0, 0), rgb=(0.12, 0.12, 0.14), mass=0.02)


def _add_scissors(body: mujoco.MjsBody, half: tuple, caddy: int) -> None:
    """Length along y: blades at -y, two bows at y on a hidden box that carries the tool."""
    half_x, half_y, half_z = half
    hide(_solid(body, (half_x, 0.045, half_z), (0, half_y - 0.045, 0), rgb=(0, 0, 0), mass=0.04))
    top, side, pink = half_y - half_z, half_x - half_z, (0.80, 0.12, 0.35)
    for sign in (-1, 1):
        shape(body, CAPSULE, (half_z,), fromto=(sign * 0.012, 0.015, 0, sign * side, top, 0), rgb=pink)
    shape(body, CAPSULE, (half_z,), fromto=(-side, top, 0, side, top, 0), rgb=pink)
    _solid(body, (0.012, 0.060, 0.003), (0, 0.060 - half_y, 0), rgb=(0.68, 0.69, 0.72), mass=0.01, touches=FINGER)
    _in_caddy(body, caddy, half_z, (0, half_z - half_y, 0), (0, 0.02, 0), TABLE)
    for sign in (-1, 1):
        _in_caddy(body, caddy, half_z, (sign * 0.012, 0.02, 0), (sign * side, top, 0))


_ADD = {
    "can_opener": _add_can_opener,
    "screwdriver": _add_screwdriver,
    "magnifier": _add_magnifier,
    "thumb_drive": _add_thumb_drive,
    "scissors": _add_scissors,
}
