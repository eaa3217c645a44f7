"""Where the public simulator's models are."""

import os
from pathlib import Path

VARIABLE = "CLAMP_ALOHA_SIM_ASSETS"
HINT = f"git clone https://github.com/google-deepmind/aloha_sim, then name its aloha_sim/assets folder by --assets or {VARIABLE}"
SCENE = Path("aloha", "scene_pbr.xml")


def find(folder: str | Path | None = None) -> Path:
    """The folder of the models: the one given, else that of the environment variable.

    Raises FileNotFoundError if none is named or the named one is not there or has another layout, with where to get them.
    """
    named = folder or os.environ.get(VARIABLE)
    if not named:
        raise FileNotFoundError(f"the models of the cell are not named; {HINT}")
    found = Path(named).expanduser()
    if not found.is_dir():
        raise FileNotFoundError(f"{found} is no folder; {HINT}")
    return require(found, SCENE).parents[1]


def require(folder: Path, file: str | Path) -> Path:
    """A file of the assets folder; FileNotFoundError if the folder has another layout."""
    path = folder / file
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {Path(file).as_posix()}; {HINT}")
    return path
