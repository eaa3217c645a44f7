"""Points on the visible meshes of a scene, in the colours of their textures: what the cameras of `observe` see of it."""

import mujoco
import numpy as np
import trimesh

from clamp_jax.structs import Surface

POINTS = 250_000  # of a scene
NEAR = 3.0  # density of what wrist cameras see from near, objects and fingers, over that of arms and frame
TABLE_MESH = "table_mesh_mapped"  # ray cast as a box instead
_FAR_BODIES = ("world", "table", "base_link", "shoulder_link", "arm_link", "forearm_link", "wrist_link")  # ends of names
OVERLAP = 1.0  # half size of a point over the mean way to the next: of points at random 2 in 100 places would be bare
_DRAWN = 3  # so many points are drawn for one that is kept, at first: much of a robot's meshes is inside
_SIDES = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) != (0, 0, 0)]  # from which a body is looked at


def surface_of(model: mujoco.MjModel, points: int = POINTS) -> Surface:
    """`points` points on the meshes that MuJoCo's renderer shows (groups 0 to 2), by area; numpy. The same for the same model.

    Points that are inside their body, seen from none of 26 sides, are left out.
    """
    geoms = [geom for geom in np.flatnonzero(model.geom_group <= 2).tolist() if _mesh_name(model, geom) not in (None, TABLE_MESH)]
    meshes = {geom: _mesh(model, int(model.geom_dataid[geom])) for geom in geoms}
    weights = np.array([meshes[geom].area * _density(model, geom) for geom in geoms])
    ends = np.round(_DRAWN * points * np.cumsum(weights) / weights.sum()).astype(int)
    parts = [_sample(model, geom, meshes[geom], count) for geom, count in zip(geoms, np.diff(ends, prepend=0).tolist(), strict=True)]
    drawn = Surface(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    outside = _seen(drawn)
    seen = Surface(*(column[outside] for column in drawn))
    kept = _even(seen, points)
    seen = seen._replace(radius=seen.radius * np.float32(OVERLAP * np.sqrt(len(seen.body) / points)))
    return Surface(*(column[kept] for column in seen))


def _even(seen: Surface, count: int) -> np.ndarray:
    """Which `count` points to keep, evenly spread: one in each cube, of the size at which there are nearly as many; then any."""
    scaled, low, high, best = seen.point / seen.radius[:, None], 0.1, 4.0, np.zeros(0, np.int64)
    for _ in range(10):
        size = (low + high) / 2
        cubes = np.floor(scaled / size).astype(np.int64) + 2**15
        found = np.unique(((seen.body * 2**16 + cubes[:, 0]) * 2**16 + cubes[:, 1]) * 2**16 + cubes[:, 2], return_index=True)[1]
        low, high, best = (size, high, best) if len(found) > count else (low, size, found)
    others = np.setdiff1d(np.arange(len(seen.body)), best)
    more = np.random.default_rng(0).choice(others, count - len(best), replace=len(others) < count - len(best))
    return np.sort(np.concatenate([best, more]))


def _density(model: mujoco.MjModel, geom: int) -> float:
    return 1.0 if model.body(model.geom_bodyid[geom]).name.endswith(_FAR_BODIES) else NEAR


def _seen(drawn: Surface) -> np.ndarray:
    """Which points are the outermost of their body, nearly, from one side or another, (n,) bool."""
    seen = np.zeros(len(drawn.body), bool)
    for body in np.unique(drawn.body):
        own = np.flatnonzero(drawn.body == body)
        points = drawn.point[own].astype(np.float64)
        pixel_m = 1.5 * np.sqrt(np.prod(np.sort(np.ptp(points, 0) + 1e-3)[1:]) * 4 / len(own))  # a point or more in each, about
        for side in _SIDES:
            seen[own] |= _outermost(points, np.array(side) / np.linalg.norm(side), pixel_m)
    return seen


def _outermost(points: np.ndarray, side: np.ndarray, pixel_m: float) -> np.ndarray:
    """Which points (n, 3) no other one hides, within two pixels in depth, from far away on a side."""
    across = np.cross(side, (1.0, 0.0, 0.0) if abs(side[0]) < 0.9 else (0.0, 1.0, 0.0))
    across /= np.linalg.norm(across)
    place = np.stack([points @ across, points @ np.cross(side, across)], 1)
    cell = ((place - place.min(0)) / pixel_m).astype(int)
    pixel = cell[:, 0] * (cell[:, 1].max() + 1) + cell[:, 1]
    height = points @ side
    highest = np.full(pixel.max() + 1, -np.inf)
    np.maximum.at(highest, pixel, height)
    return height > highest[pixel] - 2 * pixel_m


def table_colour(model: mujoco.MjModel) -> np.ndarray | None:
    """Mean colour (3,) of the table top's texture, in [0, 1]; None where no table top is a mesh."""
    geom = next((geom for geom in range(model.ngeom) if _mesh_name(model, geom) == TABLE_MESH), None)
    if geom is None:
        return None
    texture = _texture(model, geom)
    return model.geom_rgba[geom, :3].copy() if texture is None else texture.reshape(-1, 3).mean(0) / 255


def _mesh_name(model: mujoco.MjModel, geom: int) -> str | None:
    is_mesh = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH
    return model.mesh(model.geom_dataid[geom]).name if is_mesh else None


def _mesh(model: mujoco.MjModel, mesh: int) -> trimesh.Trimesh:
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    faces = model.mesh_face[model.mesh_faceadr[mesh] :][: model.mesh_facenum[mesh]]
    return trimesh.Trimesh(vertices, faces, process=False, validate=False)


def _sample(model: mujoco.MjModel, geom: int, mesh: trimesh.Trimesh, count: int) -> tuple[np.ndarray, ...]:
    """Columns of `Surface` of one geom."""
    if not count:
        return *[np.zeros((0, 3), np.float32)] * 3, np.zeros(0, np.float32), np.zeros(0, np.int32)
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=int(geom))
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
    rotation = rotation.reshape(3, 3)
    colour = _colours(model, geom, mesh, np.asarray(points), np.asarray(faces))
    moved = np.asarray(points) @ rotation.T + model.geom_pos[geom]
    normals = np.asarray(mesh.face_normals)[faces] @ rotation.T
    columns = [column.astype(np.float32) for column in (moved, normals, colour)]
    spacing = np.full(count, np.sqrt(mesh.area / count), np.float32)
    return *columns, spacing, np.full(count, model.geom_bodyid[geom], np.int32)


def _colours(model: mujoco.MjModel, geom: int, mesh: trimesh.Trimesh, points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Colours (n, 3) in [0, 1] of points on faces: the texture's, times the material's or the geom's own."""
    material, data = model.geom_matid[geom], model.geom_dataid[geom]
    tint = model.mat_rgba[material, :3] if material >= 0 else model.geom_rgba[geom, :3]
    texture = _texture(model, geom)
    if texture is None or model.mesh_texcoordnum[data] == 0:
        return np.tile(tint, (len(points), 1))
    coordinates = model.mesh_texcoord[model.mesh_texcoordadr[data] :][: model.mesh_texcoordnum[data]]
    corners = coordinates[model.mesh_facetexcoord[model.mesh_faceadr[data] :][: model.mesh_facenum[data]][faces]]
    weights = np.nan_to_num(trimesh.triangles.points_to_barycentric(mesh.triangles[faces], points), nan=1 / 3)
    u, v = ((weights[..., None] * corners).sum(1) % 1.0).T
    height, width = texture.shape[:2]
    row, column = np.minimum((v * height).astype(int), height - 1), np.minimum((u * width).astype(int), width - 1)
    return texture[row, column] / 255 * tint


def _texture(model: mujoco.MjModel, geom: int) -> np.ndarray | None:
    """The colour texture (h, w, 3) uint8 of a geom, None if it has none."""
    material = model.geom_matid[geom]
    found = [model.mat_texid[material, role] for role in (mujoco.mjtTextureRole.mjTEXROLE_RGB, mujoco.mjtTextureRole.mjTEXROLE_RGBA)]
    texture = max(found) if material >= 0 else -1
    if texture < 0:
        return None
    height, width, channels = (int(part[texture]) for part in (model.tex_height, model.tex_width, model.tex_nchannel))
    start = model.tex_adr[texture]
    return model.tex_data[start : start + height * width * channels].reshape(height, width, channels)[..., :3]
