"""What tensorstore never frees, and orbax asks it for at every save: kept from a run that saves for days.

tensorstore (0.1.86) keeps the strings and lists of all that it turns from JSON into Python: `KvStore.Spec.to_json` four strings
a call, which orbax (0.12.8) makes for every array of every save, to be told the dictionary that it gave; and
`experimental_collect_matching_metrics` 72 lists, for a figure of its monitoring. Where another release has not these names,
nothing is changed.
"""

import importlib
from typing import Any

import tensorstore

ORBAX = "orbax.checkpoint._src.serialization.tensorstore_utils"


class _FileSpec:
    """A file's `KvStore.Spec` for the one thing that orbax asks of it: a file's spec has nothing to resolve."""

    def __init__(self, given: dict):
        self._given = given

    def to_json(self) -> dict:
        """The dictionary that was given."""
        return dict(self._given)


class _Store:
    """`KvStore` with that `Spec` for files."""

    def Spec(self, spec: Any) -> Any:  # noqa: N802 - tensorstore's name
        return _FileSpec(spec) if _is_file(spec) else tensorstore.KvStore.Spec(spec)

    def open(self, spec: Any, **options: Any) -> Any:
        return tensorstore.KvStore.open(spec.to_json() if isinstance(spec, _FileSpec) else spec, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(tensorstore.KvStore, name)


class _Tensorstore:
    """The module tensorstore as orbax's specs see it."""

    KvStore = _Store()

    def __getattr__(self, name: str) -> Any:
        return getattr(tensorstore, name)


def _is_file(spec: Any) -> bool:
    return isinstance(spec, dict) and spec.keys() == {"driver", "path"} and spec["driver"] == "file"


def stop() -> None:
    """Put these in orbax's way; once is enough."""
    module = importlib.import_module(ORBAX)
    if hasattr(module, "get_tensorstore_raw_bytes"):
        module.get_tensorstore_raw_bytes = lambda *_, **__: 0
    if hasattr(module, "ts"):
        module.ts = _Tensorstore()
