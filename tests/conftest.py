"""What holds for every test: four CPU devices, shapes checked, warnings and rank promotion are errors."""

import os
import tempfile
from pathlib import Path

# Before jax starts. The scheduler flag keeps MJX from hanging on two cores.
os.environ["XLA_FLAGS"] = " ".join(
    ["--xla_force_host_platform_device_count=4", "--xla_cpu_enable_concurrency_optimized_scheduler=false"]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("clamp_jax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
_CACHE = Path(os.environ.get("CLAMP_TEST_CACHE", Path(tempfile.gettempdir()) / f"clamp_jax_tests_{os.getuid()}"))
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@pytest.fixture(scope="session")
def aloha_sim_assets() -> Path:
    """The `assets` folder of a clone of google-deepmind/aloha_sim; tests that need it are skipped by name without it."""
    folder = os.environ.get("CLAMP_ALOHA_SIM_ASSETS")
    if not folder:
        pytest.skip("needs the models of google-deepmind/aloha_sim: set CLAMP_ALOHA_SIM_ASSETS to its aloha_sim/assets folder")
    if not (Path(folder) / "aloha" / "aloha_pbr.xml").is_file():
        pytest.fail(f"CLAMP_ALOHA_SIM_ASSETS={folder} holds no aloha/aloha_pbr.xml; name the aloha_sim/assets folder of a clone")
    return Path(folder)
