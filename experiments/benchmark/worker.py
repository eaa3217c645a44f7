"""One framework in a process of its own, told by lines of JSON what to render: python -m experiments.benchmark.worker NAME.

{"do": "forms"} -> {"forms": [...], "version": ...}
{"do": "load", "path": ...} -> {}                         the work of one cell, written by work.save
{"do": "image", "form": ..., "path": ...} -> {"ms": ...}  the first call, with its compilation; the image goes to path
{"do": "time", "form": ...} -> {"ms": ...}                a turn: one call among others, see turns.py
"""

import importlib
import json
import os
import sys
import time
from typing import Any

from experiments.benchmark import work
from experiments.benchmark.turns import turn

FRAMEWORKS = {"jax": "splat_jax", "torch": "splat_torch", "numpy": "splat_numpy"}


class Worker:
    """Answers one request after another."""

    def __init__(self, framework: str):
        if framework == "jax":
            from clamp_jax import runtime

            runtime.setup("cpu", mjx=False)
            os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what compiling costs is one of the figures
        self.framework = framework
        self.module = importlib.import_module(f"experiments.benchmark.{FRAMEWORKS[framework]}")
        self.work, self.calls = None, {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request."""
        return getattr(self, f"do_{request.pop('do')}")(**request)

    def do_forms(self) -> dict[str, Any]:
        return {"forms": list(self.module.FORMS), "version": importlib.import_module(self.framework).__version__}

    def do_load(self, path: str) -> dict[str, Any]:
        self.work, self.calls = work.load(path), {}
        return {}

    def do_image(self, form: str, path: str) -> dict[str, Any]:
        import numpy as np

        begin = time.perf_counter()
        call = self.calls[form] = self.module.make(self.work, form)
        result = call()
        taken = _ms(begin)
        np.save(path, self.module.image(result)[:1])
        return {"ms": taken}

    def do_time(self, form: str) -> dict[str, Any]:
        return {"ms": turn(self.calls[form])}


def _ms(begin: float) -> float:
    return 1e3 * (time.perf_counter() - begin)


def main() -> None:
    """Serve standard input until it ends; what libraries print goes to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except Exception as error:  # told to the parent, which decides
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=out, flush=True)


if __name__ == "__main__":
    main()
