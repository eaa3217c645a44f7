"""Imports run one way: structs <- geometry <- render <- observe <- steps; nothing in the library knows its users."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "clamp_jax"

# For each place (longest prefix wins) what it may not import. A place is a module path below clamp_jax.
FORBIDDEN = {
    "structs": ["geometry", "render", "observe", "models", "losses", "steps", "parallel", "checkpoint", "data", "sim", "deploy", "act"],
    "geometry": ["render", "observe", "models", "losses", "steps", "act", "parallel", "checkpoint", "data", "sim", "deploy"],
    "render": ["observe", "models", "losses", "steps", "act", "parallel", "checkpoint", "data", "sim", "deploy"],
    "sensors": ["observe", "models", "losses", "steps", "act", "parallel", "checkpoint", "data", "sim", "deploy"],
    "observe": ["models", "losses", "steps", "act", "parallel", "checkpoint", "data", "sim", "deploy"],
    "models": ["geometry", "render", "observe", "steps", "act", "parallel", "checkpoint", "data", "sim", "deploy", "losses"],
    "losses": ["geometry", "render", "observe", "steps", "act", "parallel", "checkpoint", "data", "sim", "deploy", "models"],
    "ring": ["geometry", "render", "observe", "steps", "act", "parallel", "checkpoint", "data", "sim", "deploy", "models"],
    "diffusion": ["geometry", "render", "observe", "steps", "act", "parallel", "checkpoint", "data", "sim", "deploy", "models"],
    "networks": ["steps", "act", "parallel", "checkpoint", "data", "sim", "deploy", "losses"],
    "steps": ["sim", "deploy", "checkpoint", "act"],
    "act": ["sim", "deploy"],
    "parallel": ["models", "sim", "deploy", "data"],
    "checkpoint": ["models", "sim", "deploy"],
    "data": ["models", "sim", "deploy", "steps"],
    "sim": ["models", "steps", "deploy", "data", "parallel", "checkpoint"],
    "sim.rollout": ["models", "steps", "deploy", "parallel", "checkpoint"],
    "deploy": ["sim", "steps", "parallel"],
}
# Run on a robot's computer without jax.
PLAIN = [f"deploy.{name}" for name in ("client", "protocol", "safety", "calibration", "check", "cell", "imaging", "robots.leaders")]
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "mujoco"}


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(LIBRARY).with_suffix("").parts)
    return name.removesuffix(".__init__").removesuffix("__init__")


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, function-level imports included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; name the module in full"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


MODULES = sorted(LIBRARY.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_one_way(path):
    name, names = module_name(path), imported(path)
    outside = [n for n in names if within(n, "experiments") or within(n, "data_tools") or within(n, "tests")]
    assert not outside, f"{path} imports its users: {outside}"
    places = sorted((p for p in FORBIDDEN if within(name, p)), key=len)
    for place in FORBIDDEN[places[-1]] if places else []:
        wrong = [n for n in names if within(n, "clamp_jax." + place)]
        assert not wrong, f"{path} imports {wrong}; {places[-1]} may not know {place}"


def test_only_models_know_flax():
    for path in MODULES:
        if not within(module_name(path), "models"):
            assert not any(within(n, "flax") for n in imported(path)), f"{path} imports flax"


@pytest.mark.parametrize("name", PLAIN)
def test_robot_side_needs_no_jax(name):
    code = f"import sys, clamp_jax.{name}; print(' '.join(sorted({HEAVY!r} & set(sys.modules))))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "", f"clamp_jax.{name} pulls {out.stdout}"


def test_a_wrong_import_is_seen(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from clamp_jax.sim import scene\n    return scene\n")
    assert any(within(n, "clamp_jax.sim") for n in imported(bad))
