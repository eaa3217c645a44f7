"""Stage (i): contrastive pre-training of the encoders, with the policy's pre-training in parallel.

    python -m experiments.pretrain --config experiments/configs/pretrain.py:demo --config.data.paths="('data/a', 'data/b')" --workdir runs/p
"""

from ml_collections import ConfigDict

from experiments.configs import shared

PRESETS = ("debug", "demo", "large", "paper")


def get_config(preset: str = "demo") -> ConfigDict:
    """A locked config; ValueError for an unknown preset."""
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r} of pretrain; expected one of {', '.join(PRESETS)}")
    config = {"debug": _debug, "demo": _demo, "large": _large, "paper": _paper}[preset]()
    config.seed = 0
    config.variant = "clamp"  # "clamp", "policy_pretrained" or "blind": clamp_jax/steps.py
    config.views = shared.views()
    config.ablation = shared.ablation()
    config.train.update(shared.pair_losses())
    return config.lock()


def _debug() -> ConfigDict:
    """Seconds, for tests."""
    config = ConfigDict()
    config.model = shared.model("debug")
    config.data = shared.data()
    config.data.capacity = ConfigDict({"plane": 1, "sphere": 2, "capsule": 4, "cylinder": 1, "box": 4})
    config.sensor = shared.sensor("noisy")
    config.optimiser = shared.optimiser(policy=1e-3, clamp=1e-3, warmup=1)
    config.train = shared.train(batch=4, steps=4, log_every=1, save_every=2)
    config.train.compiler_options = (("xla_backend_optimization_level", 0),)  # compiles in a third of the time
    return config


def _demo() -> ConfigDict:
    """Minutes on a few CPU cores; all values ours, found by trial."""
    config = ConfigDict()
    config.model = shared.model("demo")
    config.data = shared.data()
    config.sensor = shared.sensor("noisy")
    config.optimiser = shared.optimiser(policy=1e-3, clamp=1e-3, warmup=50)
    config.train = shared.train(batch=32, steps=600, log_every=10, save_every=200)
    return config


def _large() -> ConfigDict:
    """The demo's networks with more data and steps, for a strong CPU or any accelerator; ours."""
    config = _demo()
    config.optimiser = shared.optimiser(policy=7e-4, clamp=7e-4, warmup=200)
    config.train = shared.train(batch=64, steps=4000, log_every=20, save_every=500)
    return config


def _paper() -> ConfigDict:
    """The paper's scale, for 64 accelerators."""
    config = ConfigDict()
    config.model = shared.model("B/16")  # ours: ViT-B/16, 224 px views (arXiv 2602.00937), 480 x 640 cameras (arXiv 2410.13126)
    config.model.text = "clip"  # arXiv 2602.00937; ours: frozen, with a trained projection
    config.data = shared.data()  # 4,500 demonstrations a task (arXiv 2602.00937)
    config.data.threads = 16
    config.sensor = shared.sensor("d405")  # the real cell's stereo cameras; ours
    # 1e-4 and the warm-up of 5,000 steps: ALOHA Unleashed's policy (remembered); the encoders' rate is ours
    config.optimiser = shared.optimiser(policy=1e-4, clamp=1e-4, warmup=5_000)
    config.train = shared.train(batch=256, steps=1_000_000, log_every=100, save_every=5_000)  # 256: remembered; 1M: 2602.00937
    config.train.keep_every = 40_000  # the paper evaluates every 40k steps
    return config
