"""Give recorded images another calibration: the same episodes, for a calibration that was found later to be wrong.

python -m data_tools.recalibrate --data runs/mug/data --calibration calibration.json --out runs/mug_again
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clamp_jax.data.folders import IMAGES_OF, Reader, Writer
from clamp_jax.data.records import Episode
from clamp_jax.deploy import calibration as files
from clamp_jax.deploy.calibration import CellCalibration
from clamp_jax.structs import CAMERAS, Calibration


def recalibrate(source: Path, calibration: CellCalibration, out: Path) -> Path:
    """Write a data set of the episodes of `source` in which images have the calibration given; the path of it.

    The lenses that were taken out when the images were made stay those of the recording. Raises ValueError for a data set that is not
    of recorded images, and for an `out` that holds one; CalibrationError for a calibration without one of the four cameras.
    """
    reader = Reader(source)
    if reader.kind != "image" or IMAGES_OF in reader.meta.get("origin", {}):
        raise ValueError(f"{source} holds no recorded images; python -m data_tools.record makes such data sets")
    origin = reader.meta.get("origin", {}) | {"calibrations": [calibration.id]}
    with Writer(out, task=reader.task, kind="image", origin=origin) as writer:
        for index in range(len(reader)):
            writer.add(replaced(reader.read_images(index), calibration))
    return out


def replaced(episode: Episode, calibration: CellCalibration) -> Episode:
    """An image episode with another calibration in each of its frames."""
    values = files.fields(calibration, episode.rgb.shape[2:4], CAMERAS)
    rows = [np.repeat(np.asarray(getattr(values, name))[None], len(episode.ticks), axis=0) for name in Calibration._fields]
    return episode._replace(calibration=Calibration(*rows))


def main(words: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 with one line of why."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a data set of recorded images")
    parser.add_argument("--calibration", type=Path, required=True, help="calibration.json")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new data set")
    args = parser.parse_args(words)
    try:
        print(recalibrate(args.data, files.read(args.calibration, CAMERAS), args.out))
    except (ValueError, OSError) as error:
        print(f"recalibrate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
