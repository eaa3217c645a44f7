"""The networks that a config asks for, with all that is static about what they are fed: sizes, views, sensors, variant, ablation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from clamp_jax import diffusion
from clamp_jax.models import presets
from clamp_jax.models.clamp import Clamp
from clamp_jax.models.policy_net import PolicyNet
from clamp_jax.models.position import check_kind
from clamp_jax.observe import SensorConfig
from clamp_jax.render.views import ViewConfig, default_views, orthographic_views
from clamp_jax.structs import Capacity

CAPACITY = Capacity()
EMBEDDINGS = ("kept", "shuffled", "zeroed")


class Variant(NamedTuple):
    """What a policy is given, and which stages it goes through: the paper's method and its baselines."""

    encoders: bool  # image, action and text encoder exist, are trained in stage (i) and frozen in stage (ii)
    embeddings: bool  # the policy has tokens for the image and the action embedding
    sight: bool  # images and clouds are real; without it they and the embeddings are zeros
    pretrained: bool  # stage (ii) begins with the policy of stage (i)


VARIANTS = {
    "clamp": Variant(encoders=True, embeddings=True, sight=True, pretrained=True),
    "policy_pretrained": Variant(encoders=False, embeddings=False, sight=True, pretrained=True),
    "scratch": Variant(encoders=False, embeddings=False, sight=True, pretrained=False),
    "blind": Variant(encoders=False, embeddings=True, sight=False, pretrained=True),
}


class Ablation(NamedTuple):
    """What a study takes away from the method; the defaults take nothing. Orthographic views are a value of the config's `views`."""

    embeddings: str = "kept"  # what the policy reads of the encoders: "kept", "shuffled" among the examples of a batch, or "zeroed"
    wrist_views: bool = True  # False: the fixed views alone
    position: str = ""  # of the view encoder's tokens, models.position.KINDS: "none" for none; "" for the preset's
    text: bool = True  # False: no text encoder, and image-action is the only pair


class Networks(NamedTuple):
    """All that is static about the networks and their input; hashable."""

    clamp: Clamp | None  # None: the variant has no encoders
    policy: PolicyNet
    variant: Variant
    sensor: SensorConfig
    views: ViewConfig
    embedding: int  # d, size of an embedding
    text_length: int  # l, tokens of a sentence
    draws: int  # (timestep, noise) pairs an encoded observation is used for in one step
    embeddings: str = "kept"  # of EMBEDDINGS

    @property
    def schedule(self) -> diffusion.Schedule:
        """The policy's noise schedule."""
        return diffusion.squared_cosine(self.policy.config.diffusion_steps)


def make_networks(
    *,
    model: Mapping,
    views: Mapping,
    sensor: Mapping,
    variant: str,
    ablation: Mapping = MappingProxyType({}),
    capacity: Capacity = CAPACITY,
) -> Networks:
    """The networks of a config's sections `model`, `views`, `sensor` and `ablation` and of a variant's name.

    model: as `make_sizes` takes it. views: projection ("perspective" or "orthographic"), points, voxel_m, radius_px, radius_m.
    sensor: the fields of SensorConfig but its size, which is the preset's, and capacity, the slots of a simulated scene's
    geoms. ablation: fields of `Ablation`. What an older run's section lacks is off.
    Raises ValueError for a name that does not exist.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; expected one of {', '.join(VARIANTS)}")
    kind, without = VARIANTS[variant], check_ablation(Ablation(**ablation))
    full = make_sizes(model)
    sizes = ablate_sizes(full, without)._replace(policy=full.policy._replace(use_embeddings=kind.embeddings))
    clamp, policy = presets.build(sizes)
    seen = make_views(sizes.view_size, **views)
    return Networks(
        clamp=clamp if kind.encoders else None,
        policy=policy,
        variant=kind,
        sensor=SensorConfig(height=sizes.camera_height, width=sizes.camera_width, capacity=capacity, **sensor),
        views=seen if without.wrist_views else without_wrists(seen),
        embedding=sizes.clamp.embedding,
        text_length=full.clamp.text.length,
        draws=sizes.draws,
        embeddings=without.embeddings,
    )


def make_sizes(model: Mapping) -> presets.Preset:
    """The sizes of a config's section `model`: preset, dtype of the computation, and pairs of a dotted path in the preset and a value.

    The pairs stand in `overrides`, and those of public weights that were loaded in `public`, which prevail.
    """
    overrides = {path: _tuples(value) for path, value in (*model["overrides"], *model.get("public", ()))}
    dtype = {"*.dtype": model["dtype"]} if "dtype" in model else {}  # an override of it prevails
    return presets.override(presets.preset(model["preset"]), dtype | overrides)


def check_ablation(ablation: Ablation) -> Ablation:
    """The ablation itself; ValueError for a value that does not exist."""
    if ablation.embeddings not in EMBEDDINGS:
        raise ValueError(f"ablation.embeddings is {ablation.embeddings!r}; expected one of {', '.join(EMBEDDINGS)}")
    if ablation.position:
        check_kind(ablation.position)
    return ablation


def ablate_sizes(sizes: presets.Preset, ablation: Ablation) -> presets.Preset:
    """The sizes without what the ablation takes from the encoders."""
    position = {"clamp.image.transformer.position": ablation.position} if ablation.position else {}
    return presets.override(sizes, position | ({} if ablation.text else {"clamp.text": None}))


def without_wrists(views: ViewConfig) -> ViewConfig:
    """The fixed views alone."""
    return views._replace(names=views.names[: len(views.fixed)], wrist=None)


def make_views(size: int, *, projection: str, points: int, radius_px: int, voxel_m: float = 0.0, radius_m: float = 0.0) -> ViewConfig:
    """The virtual cameras of a config's section, which in older runs has no voxel_m and radius_m; ValueError for an unknown projection."""
    kinds = {"perspective": default_views, "orthographic": orthographic_views}
    if projection not in kinds:
        raise ValueError(f"projection of the views is {projection!r}; expected one of {', '.join(kinds)}")
    return kinds[projection](size)._replace(points=points, voxel_m=voxel_m, radius_px=radius_px, radius_m=radius_m)


def _tuples(value: Any) -> Any:
    """Lists as tuples: a config that was read from JSON makes the same networks."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
