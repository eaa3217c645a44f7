"""The same splat in torch, the peer of the render benchmark: int64 keys or two passes, eager or compiled.

Each form is what a torch user would write for speed: all views of all samples in one scatter (`flat`), or one scatter
for each view (`views`).
"""

import functools
from collections.abc import Callable

import numpy as np
import torch

from experiments.benchmark.work import NEAR_M, SIZE, Work

FORMS = ("int64-flat", "int64-views", "two_pass-flat", "two_pass-views", "compile-flat", "compile-views")
_BINS = SIZE * SIZE
_EMPTY, _INF_BITS = (1 << 63) - 1, 0x7F800000


def make(work: Work, form: str) -> Callable[[], torch.Tensor]:
    """A call that renders the work, (b, v, h, w, 4)."""
    kind, layout = form.split("-")
    points = torch.tensor(work.points)
    intrinsics = torch.tensor(work.intrinsics)
    camera_from_world = torch.linalg.inv(torch.tensor(work.world_from_camera).double()).float()
    nearest = {"int64": _packed, "compile": _packed, "two_pass": _two_pass}[kind]
    render = functools.partial(_render, nearest=nearest, radius=work.radius_px)
    if kind == "compile":
        torch.compiler.reset()  # else the ninth shape in a process is no longer compiled
        render = torch.compile(render, dynamic=False)

    def call() -> torch.Tensor:
        with torch.no_grad():
            if layout == "flat":
                return render(points, intrinsics, camera_from_world)
            return torch.stack(
                [
                    torch.cat([render(cloud[None], intrinsics[v : v + 1], camera_from_world[v : v + 1])[0] for v in range(len(intrinsics))])
                    for cloud in points
                ]
            )

    return call


def image(result: torch.Tensor) -> np.ndarray:
    """The result as numpy."""
    return result.numpy()


def _render(points: torch.Tensor, intrinsics: torch.Tensor, camera_from_world: torch.Tensor, *, nearest: Callable, radius: int):
    b, n, _ = points.shape
    v = len(intrinsics)
    seen = torch.einsum("vij,bnj->bvin", camera_from_world[:, :3, :3], points) + camera_from_world[None, :, :3, 3:]
    x, y, z = seen.unbind(2)
    fx, fy, cx, cy = intrinsics.T[:, None, :, None]
    across, down = fx * x / z + cx, fy * y / z + cy
    keep = (z > NEAR_M) & (z < torch.inf) & (across >= 0) & (across < SIZE) & (down >= 0) & (down < SIZE)
    pixel = torch.where(keep, down, 0).to(torch.int32) * SIZE + torch.where(keep, across, 0).to(torch.int32)
    pixel = torch.where(keep, pixel, _BINS).to(torch.int64)
    bits, index = nearest(pixel, z)
    if radius:
        bits, index = _widen(bits, index, radius)
    hit = bits != _INF_BITS
    taken = torch.where(hit, index, 0).reshape(b, -1)
    xyz = torch.gather(points, 1, taken[..., None].expand(-1, -1, 3)).reshape(b, v, _BINS, 3)
    depth = bits.to(torch.int32).view(torch.float32)[..., None]
    return torch.where(hit[..., None], torch.cat([depth, xyz], -1), 0.0).reshape(b, v, SIZE, SIZE, 4)


def _packed(pixel: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    b, v, n = pixel.shape
    key = (z.view(torch.int32).to(torch.int64) << 32) | torch.arange(n)
    best = torch.full((b, v, _BINS + 1), _EMPTY)
    best = best.scatter_reduce(2, pixel, key, "amin", include_self=True)[..., :-1]
    bits = best >> 32
    return torch.where(best == _EMPTY, _INF_BITS, bits), best & 0xFFFFFFFF


def _two_pass(pixel: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    b, v, n = pixel.shape
    nearest = torch.full((b, v, _BINS + 1), torch.inf).scatter_reduce(2, pixel, z, "amin", include_self=True)
    holds = torch.gather(nearest, 2, pixel) == z
    index = torch.full((b, v, _BINS + 1), n, dtype=torch.int64)
    index = index.scatter_reduce(2, torch.where(holds, pixel, _BINS), torch.arange(n).expand(b, v, n), "amin", include_self=True)
    return nearest[..., :-1].contiguous().view(torch.int32).to(torch.int64), index[..., :-1]


def _widen(bits: torch.Tensor, index: torch.Tensor, radius: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The least key of a square round each pixel, one axis at a time."""
    key = ((bits << 32) | torch.where(bits == _INF_BITS, 0, index)).reshape(*bits.shape[:2], SIZE, SIZE)
    for axis in (2, 3):
        padded = torch.nn.functional.pad(key, (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius), value=_INF_BITS << 32)
        key = functools.reduce(torch.minimum, [padded.narrow(axis, i, SIZE) for i in range(2 * radius + 1)])
    key = key.reshape(bits.shape)
    return key >> 32, key & 0xFFFFFFFF
