"""Points on the visible meshes of a scene, in the colours of their textures: what the cameras of `observe` see of it."""

import mujoco
import numpy as np
import trimesh

from clamp_jax.structs import Surface

POINTS = 200_000  # of a scene; the cell has some 1.5 m2 of meshes: 2.7 mm from one to the next
TABLE_MESH = "table_mesh_mapped"  # ray cast as a box instead


def surface_of(model: mujoco.MjModel, points: int = POINTS) -> Surface:
    """`points` points on the meshes that MuJoCo's renderer shows (groups 0 to 2), by area; numpy. The same for the same model."""
    geoms = [geom for geom in np.flatnonzero(model.geom_group <= 2) if _mesh_name(model, geom) not in (None, TABLE_MESH)]
    meshes = {geom: _mesh(model, model.geom_dataid[geom]) for geom in geoms}
    areas = np.array([meshes[geom].area for geom in geoms])
    ends = np.round(points * np.cumsum(areas) / areas.sum()).astype(int)
    parts = [_sample(model, geom, meshes[geom], count) for geom, count in zip(geoms, np.diff(ends, prepend=0), strict=True)]
    return Surface(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def table_colour(model: mujoco.MjModel) -> np.ndarray:
    """Mean colour (3,) of the table top's texture, in [0, 1]."""
    geom = next(geom for geom in range(model.ngeom) if _mesh_name(model, geom) == TABLE_MESH)
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
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros(0, np.int32)
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=int(geom))
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
    rotation = rotation.reshape(3, 3)
    colour = _colours(model, geom, mesh, np.asarray(points), np.asarray(faces))
    moved = np.asarray(points) @ rotation.T + model.geom_pos[geom]
    normals = np.asarray(mesh.face_normals)[faces] @ rotation.T
    return moved.astype(np.float32), normals.astype(np.float32), colour.astype(np.float32), np.full(count, model.geom_bodyid[geom], np.int32)


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
