"""The arguments of a command that say what simulated things are made of."""

import argparse
import os

from clamp_jax.sim import tasks
from clamp_jax.sim.aloha_sim import assets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--geometry and --assets."""
    parser.add_argument("--geometry", choices=tasks.GEOMETRIES, default="primitive", help="our shapes, or the public simulator's meshes")
    parser.add_argument("--assets", help=f"aloha_sim/assets of a clone of aloha_sim; default: {assets.VARIABLE}")


def choose_assets(folder: str | None) -> None:
    """Have this process and its workers take the public simulator's models from a folder; FileNotFoundError if it holds none."""
    if folder is not None:
        os.environ[assets.VARIABLE] = str(assets.find(folder))
