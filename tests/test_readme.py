"""The README's Python runs as it is printed, and no document names a file that is not there."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_renderers_lines_run_as_printed():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 14
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    images, points = np.asarray(names["images"]), np.asarray(names["points"])
    assert images.shape == (5, 224, 224, 4)
    shown = images[images[..., 0] > 0][:, 1:]
    assert len(shown) > 5000, "the fixed views see the two patches"
    assert {point.tobytes() for point in shown[::50]} <= {point.tobytes() for point in points}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_are_there(document):
    text = document.read_text()
    named = re.findall(r"`((?:clamp_jax|experiments|data_tools|tests|docs)/[\w./]+)(?::\w+)?`", text)
    linked = [str((document.parent / link).relative_to(ROOT)) for link in re.findall(r"\]\(((?!https?:)[\w./]+)\)", text)]
    for name in (*named, *linked):
        assert (ROOT / name).exists(), f"{document.name} names {name}"
