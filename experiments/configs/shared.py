"""Sections that both stages' configs have in common; every field with its source ("ours": the paper does not say)."""

from ml_collections import ConfigDict

from clamp_jax import sensors


def model(preset: str) -> ConfigDict:
    """Which networks; their sizes stand in clamp_jax/models/presets.py."""
    section = ConfigDict()
    section.preset = preset  # "debug", "demo", "Ti/16", "S/16", "B/16"; ours: the paper says neither ViT size nor patch
    section.overrides = ()  # pairs of a dotted path in the preset and a value, e.g. (("policy.encoder.depth", 4),); ours
    section.dtype = "float32"  # that networks compute in, or "bfloat16"; parameters, sums and losses are float32 in both; ours
    section.text = "own"  # text encoder: "own", small and trained from scratch; "clip", which --text clip:FOLDER has to name
    section.resnet = "own"  # "own": from scratch, with GroupNorm (ours); --resnet FILE begins with ImageNet's (2410.13126; remembered)
    section.public = ()  # the sizes of what --text and --resnet loaded, as overrides are written; the program writes them
    return section


def ablation() -> ConfigDict:
    """What a study takes away from the method: one value each, all ours; the paper has none of these. clamp_jax/networks.py."""
    section = ConfigDict()
    section.embeddings = "kept"  # that the policy reads: "kept", "shuffled" among the examples of a batch, "zeroed"
    section.wrist_views = True  # False: the fixed views alone; orthographic ones are views.projection
    section.position = ""  # of the view encoder's tokens: "none", "absolute", "rope", "circulant", "cayley"; "" for the preset's
    section.text = True  # False: no text encoder; image and action are the only pair
    return section


def views() -> ConfigDict:
    """The virtual views of the cloud (arXiv 2602.00937: five, of depth and world x, y, z, single-pixel splats)."""
    section = ConfigDict()
    section.projection = "perspective"  # read off the paper's figure; "orthographic" is the other
    section.points = 0  # points the cropped cloud is subsampled to, 0 keeps all; ours
    section.voxel_m = 0.0  # cubes of this size keep one point, 0 keeps all; ours
    section.radius_px = 0  # half size of a point's square; the paper's figure shows single pixels
    section.radius_m = 0.0  # instead of it: half size in metres, seen in perspective; ours
    return section


def sensor(preset: str) -> ConfigDict:
    """The simulated cameras' faults by a preset's name, each a field of its own; fields, values and sources: clamp_jax/sensors.py.

    All ours: the paper does not describe its augmentation. "noisy": what the demo's figures were measured with. "d405": what
    pre-training at scale uses, a real stereo camera's holes too. "upstream", "clean": the public simulator's, and none.
    """
    fields = sensors.preset(preset)._asdict()
    return ConfigDict({name: value for name, value in fields.items() if name not in ("height", "width", "capacity")})


def data(paths: tuple[str, ...] = ()) -> ConfigDict:
    """Which records, and how they are read."""
    section = ConfigDict()
    section.paths = paths  # folders of data sets
    section.weights = ()  # of the data sets in a batch, () for equal ones; ours
    section.held_out = 0.1  # fraction of the trajectories never trained on, for retrieval; ours
    section.shuffle_objects = True  # name a sentence's objects in another order each time; ours: order then carries no meaning
    section.threads = 2  # that make batches; ours
    section.bodies = 48  # rows the table of bodies is padded to; ours
    section.qpos = 80  # entries qpos is padded to; ours
    # slots of each type of geom; fewer make the ray caster faster, too few are refused; ours
    section.capacity = ConfigDict({"plane": 1, "sphere": 16, "capsule": 48, "cylinder": 8, "box": 64})
    return section


def optimiser(*, policy: float, clamp: float | None = None, warmup: int) -> ConfigDict:
    """AdamW for each trained network; ALOHA Unleashed's values are remembered ones (arXiv 2410.13126, appendix)."""
    section = ConfigDict()
    section.rates = ConfigDict({"policy": policy} | ({} if clamp is None else {"clamp": clamp}))  # peak learning rates
    section.warmup = warmup  # steps; ALOHA Unleashed 5,000 of 1M
    section.weight_decay = 1e-3  # ALOHA Unleashed
    section.clip = 1.0  # global norm of each network's gradient; ours
    return section


def train(*, batch: int, steps: int, log_every: int, save_every: int) -> ConfigDict:
    """The loop."""
    section = ConfigDict()
    section.batch = batch  # global; ALOHA Unleashed 256
    section.steps = steps  # paper: 1M
    section.mapping = "jit"  # over devices: "jit" (with shardings) or "pmap" (one process); ours
    section.accumulate = 1  # parts in which a device does its rows, for memory; negatives stay the whole batch's (arXiv 2101.06983); ours
    section.compiler_options = ()  # pairs of an XLA option and its value, for "jit"; ours
    section.ema_power = 0.75  # average of weights: 1 - (1 + step)^-power, as Diffusion Policy's (arXiv 2303.04137)
    section.ema_maximum = 0.9999  # and at most this
    section.log_every = log_every  # steps between two lines of metrics.jsonl; ours
    section.save_every = save_every  # steps between two checkpoints; ours
    section.keep_last = 2  # checkpoints kept; ours
    section.keep_every = 0  # steps whose multiples are kept for ever, 0 for none; ours
    section.update(spikes())
    return section


def spikes() -> ConfigDict:
    """When a loss stops the run."""
    section = ConfigDict()
    section.spike_factor = 10.0  # a loss over this times the median of the last ones stops the run, 0 for never; ours
    section.spike_window = 100  # how many losses that median is taken of, at least 20; ours
    return section


def pair_losses() -> ConfigDict:
    """What stage (i)'s loop has beside; runs that are older than a field are taken up without it: plain, and nothing masked."""
    section = ConfigDict()
    section.pair_loss = "ring"  # "ring": rows travel round the devices, a block of pairs at a time; "plain": all at once; ours
    section.mask_false_negatives = True  # rows of one trajectory or with one prompt are not each other's negatives; ours
    return section
