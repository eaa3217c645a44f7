"""Compare every byte of data sets with what was written: meta.json by the hash that it carries, each shard by the hash in meta.json.

python -m data_tools.verify runs/demo/data/drawer_open runs/demo/data/drawer_close

One line a folder, and one for everything that is damaged, changed or gone; the exit status is 1 where there is any.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clamp_jax.data.folders import Reader, damages


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m data_tools.verify", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a data set")
    whole = [_verify(folder) for folder in parser.parse_args(arguments).folders]
    return 0 if all(whole) else 1


def _verify(folder: Path) -> bool:
    found = damages(folder)
    for line in found:
        print(f"verify: {line}", file=sys.stderr)
    if found:
        return False
    reader = Reader(folder)
    shards = reader.meta["shards"]["episodes"] + reader.meta["shards"]["frames"]
    size_mb = sum(shard["bytes"] for shard in shards) / 1e6
    print(f"{folder}: whole, {len(reader)} episodes ({reader.kind}) in {len(shards)} shards, {size_mb:.1f} MB, {reader.fingerprint[:12]}")
    return True


if __name__ == "__main__":
    raise SystemExit(main())
