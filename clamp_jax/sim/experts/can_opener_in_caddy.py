"""Can Opener in Caddy."""
def plan(scene, qpos0, variant, rng):
    raise ValueError
