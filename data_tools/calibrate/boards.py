"""The two ChArUco boards: their geometry, sheets to print, how a camera sees them, and finding them in an image.

A board's frame is OpenCV's: origin at its printed upper left corner, x right, y down, z into the board, metres.
"""

import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from clamp_jax.deploy.projection import INTEGER_CENTRES, directions, invert, project, transform
from clamp_jax.geometry import aloha

CELLS = 8  # a square is 8 cells wide: a marker 6, and one on either side; every edge of the print lies between cells
_DICTIONARY = cv2.aruco.DICT_4X4_100
# Columns below which an image is enlarged before the search. Ours, drawn images of 848 x 480 from 1 m: twice as many corners of the table
# board are found, with half the error (0.13 px); at 1280 x 720 nothing is gained.
_WIDE = 1000


class Board(NamedTuple):
    """A ChArUco board."""

    name: str
    squares: tuple[int, int]  # across, down
    square_m: float
    first_id: int  # of its markers; boards share a dictionary, not an id

    @property
    def size_m(self) -> tuple[float, float]:
        return self.squares[0] * self.square_m, self.squares[1] * self.square_m

    @property
    def corners(self) -> np.ndarray:
        """(n, 3) m, inner corners of the chessboard in the order of their ids."""
        down, across = np.mgrid[1 : self.squares[1], 1 : self.squares[0]]
        return np.stack([across, down, np.zeros_like(down)], -1).reshape(-1, 3) * self.square_m

    @property
    def outline(self) -> np.ndarray:
        """(4, 3) m, its outer corners, round."""
        width, height = self.size_m
        return np.array([(0, 0, 0), (width, 0, 0), (width, height, 0), (0, height, 0)], float)


TABLE = Board("table", (7, 5), 0.052, 0)  # 364 x 260 mm on A3; an overhead camera 1 m away sees 2.7 pixels a cell, 2 are too few
HELD = Board("held", (5, 4), 0.024, 50)  # 120 x 96 mm, on a plate with a tab for the fingers
BOARDS = {board.name: board for board in (TABLE, HELD)}
SHEET_M = 0.0008  # ours: the sheet and what it is glued to; the print lies so high over the table

# Flat on the table, its middle over the table's, its x towards the right arm, its print up (z into the board is down).
WORLD_FROM_TABLE = np.array(
    [
        [1.0, 0.0, 0.0, -TABLE.size_m[0] / 2],
        [0.0, -1.0, 0.0, TABLE.size_m[1] / 2],
        [0.0, 0.0, -1.0, aloha.TABLE_TOP_Z + SHEET_M],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def _held(along: float) -> np.ndarray:
    """gripper_link_from_board as drawn: the plate between the fingers, its print to the worm's-eye camera; along: x of the gripper."""
    columns = np.array([(along, 0, 0), (0, 0, -1), (0, along, 0)], float).T
    matrix = np.eye(4)
    matrix[:3, :3] = columns
    matrix[:3, 3] = (0.23, 0, 0) - columns @ (HELD.size_m[0] / 2, HELD.size_m[1] / 2, 0)
    return matrix


GRIPPER_FROM_HELD = {"left": _held(1.0), "right": _held(-1.0)}  # the arms face each other


@functools.cache
def opencv(board: Board) -> cv2.aruco.CharucoBoard:
    """The board as OpenCV's aruco module has it."""
    ids = board.first_id + np.arange(board.squares[0] * board.squares[1] // 2, dtype=np.int32)
    marker_m = board.square_m * (CELLS - 2) / CELLS
    return cv2.aruco.CharucoBoard(board.squares, board.square_m, marker_m, cv2.aruco.getPredefinedDictionary(_DICTIONARY), ids)


@functools.cache
def cells(board: Board) -> np.ndarray:
    """(rows, columns) uint8, 0 black, 255 white: the print, one pixel a cell."""
    return opencv(board).generateImage((board.squares[0] * CELLS, board.squares[1] * CELLS), marginSize=0, borderBits=1)


def write_sheet(board: Board, path: Path) -> Path:
    """An SVG of the board in millimetres, to print at 100 %, with a line of 100 mm to measure."""
    cell, margin = board.square_m * 1000 / CELLS, 10.0
    width, height = (side * 1000 + 2 * margin for side in board.size_m)
    black = [
        f'<rect x="{x * cell + margin:g}" y="{y * cell + margin:g}" width="{n * cell:g}" height="{cell:g}"/>' for y, x, n in _runs(board)
    ]
    size = f'width="{width:g}mm" height="{height + 12:g}mm" viewBox="0 0 {width:g} {height + 12:g}"'
    below = height + 2
    ruler = f'<path d="M{margin} {below - 2}v4m0 -2h100m0 -2v4" stroke="black" stroke-width="0.3" fill="none"/>'
    words = (
        f'<text x="{margin + 104}" y="{below + 1}" font-size="4">100 mm; {board.name} board, squares of {board.square_m * 1000:g} mm</text>'
    )
    body = "\n".join([*black, ruler, words])
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size} shape-rendering="crispEdges">\n{body}\n</svg>\n')
    return path


def _runs(board: Board) -> list[tuple[int, int, int]]:
    """Row, first column and length of every run of black cells."""
    found = []
    for y, row in enumerate(cells(board) < 128):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        found += [(y, int(start), int(stop - start)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    return found


def detect(image: np.ndarray, board: Board) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) and pixels (n, 2), centres at +0.5, of the board's corners in a grey or RGB uint8 image; n is 0 where it is not seen."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    finer = 2 if grey.shape[1] < _WIDE else 1
    if finer > 1:
        grey = cv2.resize(grey, None, fx=finer, fy=finer, interpolation=cv2.INTER_CUBIC)
    pixels, ids, _, _ = cv2.aruco.CharucoDetector(opencv(board)).detectBoard(grey)
    if ids is None or len(ids) == 0:
        return np.zeros(0, int), np.zeros((0, 2))
    return np.asarray(ids).reshape(-1).astype(int), (np.asarray(pixels, float).reshape(-1, 2) + INTEGER_CENTRES) / finer


def paint(
    image: np.ndarray,
    board: Board,
    camera_from_board: np.ndarray,
    optics: tuple[np.ndarray, np.ndarray],
    *,
    depth_m: np.ndarray | None = None,
    fine: int = 4,
) -> np.ndarray:
    """The pixels (h, w) bool that show the board, painted into `image` (h, w) float grey as a camera with a lens would take them.

    `optics` are intrinsics (4,) and distortion (5,). Each pixel is the mean of fine x fine rays; a white margin a quarter of a square wide.
    With `depth_m` (h, w) only where nothing is nearer, and the board's depth is written into it.
    """
    height, width = image.shape
    margin = board.square_m / 4
    outline = board.outline + np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)]) * margin
    rows, columns = _window(transform(camera_from_board, outline), optics, height, width)
    shown = np.zeros((height, width), bool)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return shown
    v, u = np.mgrid[rows, columns] + 0.5
    at, depth = _on_board(np.stack([u, v], -1), camera_from_board, optics)
    inside = np.all((at > -margin) & (at < np.array(board.size_m) + margin), -1)
    if depth_m is not None:
        before = depth_m[rows, columns]
        inside &= (before <= 0) | (depth < before)
        depth_m[rows, columns] = np.where(inside, depth, before)
    total = _print(board, at, fine) if _front(camera_from_board) else 255.0  # its back is white
    shown[rows, columns] = inside
    image[rows, columns] = np.where(inside, total, image[rows, columns])
    return shown


def _front(camera_from_board: np.ndarray) -> bool:
    """Whether the camera is on the printed side, where z of the board points away from it."""
    return bool(invert(camera_from_board)[2, 3] < 0)


def _window(outline: np.ndarray, optics: tuple[np.ndarray, np.ndarray], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the image that may show an outline (4, 3) in the camera's frame; nothing of one that is not all before it."""
    if outline[:, 2].min() < 0.02:
        return slice(0, 0), slice(0, 0)
    low, high = (f(project(outline, *optics), axis=0) for f in (np.min, np.max))
    low, high = np.clip(np.floor(low - 4), 0, (width, height)).astype(int), np.clip(np.ceil(high + 4), 0, (width, height)).astype(int)
    few = (high - low < 2).any()  # a gradient needs two
    return (slice(0, 0), slice(0, 0)) if few else (slice(low[1], high[1]), slice(low[0], high[0]))


def _on_board(pixels: np.ndarray, camera_from_board: np.ndarray, optics: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where on the board's plane (h, w, 2) m the rays of pixels (h, w, 2) end, and at what depth (h, w) m."""
    rays = directions(pixels.reshape(-1, 2), *optics)
    board_from_camera = invert(camera_from_board)
    turned, eye = rays @ board_from_camera[:3, :3].T, board_from_camera[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = -eye[2] / turned[:, 2]
    return (eye + turned * depth[:, None])[:, :2].reshape(pixels.shape), depth.reshape(pixels.shape[:2])


def _print(board: Board, at: np.ndarray, fine: int) -> np.ndarray:
    """Grey 0..255 of pixels (h, w) whose middles are at places (h, w, 2) m on the board: the mean of fine x fine rays; white around it."""
    table = np.pad(cells(board), 1, constant_values=255).astype(float)
    down, across = (np.gradient(at, axis=axis) for axis in (0, 1))
    steps, total = (np.arange(fine) + 0.5) / fine - 0.5, 0.0
    for i, j in itertools.product(steps, steps):
        index = np.floor((at + i * down + j * across) / (board.square_m / CELLS)).astype(int) + 1
        total = total + table[np.clip(index[..., 1], 0, table.shape[0] - 1), np.clip(index[..., 0], 0, table.shape[1] - 1)]
    return total / fine**2
