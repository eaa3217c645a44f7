"""Stage (ii): a policy for one task, from stage (i)'s weights, with the encoders frozen.

    python -m experiments.finetune --config experiments/configs/finetune.py:demo --config.init_from=runs/p \
        --config.data.paths="('data/task',)" --workdir runs/f
"""

from ml_collections import ConfigDict

from experiments.configs import shared

PRESETS = ("debug", "demo", "large", "paper")


def get_config(preset: str = "demo") -> ConfigDict:
    """A locked config; ValueError for an unknown preset."""
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r} of finetune; expected one of {', '.join(PRESETS)}")
    config = {"debug": _debug, "demo": _demo, "large": _large, "paper": _paper}[preset]()
    config.seed = 1
    config.variant = "clamp"  # "clamp", "policy_pretrained", "scratch" or "blind": clamp_jax/steps.py
    config.init_from = ""  # folder of a stage (i) run of the same variant; "" for "scratch"
    config.views = shared.views()
    config.ablation = shared.ablation()
    return config.lock()


def _debug() -> ConfigDict:
    """Seconds, for tests."""
    config = ConfigDict()
    config.model = shared.model("debug")
    config.data = shared.data()
    config.data.capacity = ConfigDict({"plane": 1, "sphere": 2, "capsule": 4, "cylinder": 1, "box": 4})
    config.sensor = shared.sensor("noisy")
    config.optimiser = shared.optimiser(policy=1e-3, warmup=1)
    config.train = shared.train(batch=4, steps=4, log_every=1, save_every=2)
    config.train.compiler_options = (("xla_backend_optimization_level", 0),)  # compiles in a third of the time
    return config


def _demo() -> ConfigDict:
    """Minutes on a few CPU cores; all values ours, found by trial."""
    config = ConfigDict()
    config.model = shared.model("demo")
    config.data = shared.data()
    config.sensor = shared.sensor("noisy")
    config.optimiser = shared.optimiser(policy=1e-3, warmup=50)
    config.train = shared.train(batch=32, steps=600, log_every=10, save_every=200)
    return config


def _large() -> ConfigDict:
    """The demo's networks with more data and steps, for a strong CPU or any accelerator; ours."""
    config = _demo()
    config.optimiser = shared.optimiser(policy=7e-4, warmup=200)
    config.train = shared.train(batch=64, steps=4000, log_every=20, save_every=500)
    return config


def _paper() -> ConfigDict:
    """The paper's scale, for 64 accelerators."""
    config = ConfigDict()
    config.model = shared.model("B/16")  # as stage (i)'s
    config.data = shared.data()  # 4,500 demonstrations of the task (arXiv 2602.00937)
    config.data.threads = 16
    config.sensor = shared.sensor("d405")  # as stage (i)'s
    config.optimiser = shared.optimiser(policy=1e-4, warmup=5_000)  # ALOHA Unleashed (arXiv 2410.13126; remembered)
    config.train = shared.train(batch=256, steps=1_000_000, log_every=100, save_every=5_000)  # 256: remembered; 1M: 2602.00937
    config.train.keep_every = 40_000  # the paper evaluates every 40k steps
    return config
