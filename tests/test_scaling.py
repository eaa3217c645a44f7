"""What devices send: counted by hand on made-up programs, and next to nothing beyond the least in the step itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from clamp_jax import parallel
from experiments.benchmark import __main__ as command
from experiments.benchmark import collectives, scaling

PROGRAM = """HloModule made_up, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p: (s32[], f32[4,16])) -> (s32[], f32[4,16]) {
  %p = (s32[], f32[4,16]{1,0}) parameter(0)
  %row = f32[4,16]{1,0} get-tuple-element(%p), index=1
  ROOT %sent = f32[4,16]{1,0} collective-permute(%row), channel_id=1, source_target_pairs={{0,1},{1,0}}
}

%below (p: (s32[], f32[4,16])) -> pred[] {
  ROOT %less = pred[] constant(true)
}

%outer (p: (s32[], f32[4,16])) -> (s32[], f32[4,16]) {
  %p = (s32[], f32[4,16]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[4,16]{1,0}) while(%p), condition=%below, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (a: f32[10], b: bf16[6]) -> (f32[10], bf16[6]) {
  %a = f32[10]{0} parameter(0)
  %both = (f32[10]{0}, /*index=1*/bf16[6]{0}) all-reduce(%a, %b), replica_groups={{0,1}}, to_apply=%add
  %whole = (f32[5]{0}, f32[10]{0}) all-gather-start(%half), dimensions={0}
  %done = f32[10]{0} all-gather-done(%whole)
  %part = f32[5]{0} reduce-scatter(%a), dimensions={0}, to_apply=%add
  ROOT %twice = (s32[], f32[4,16]{1,0}) while(%init), condition=%below, body=%outer, backend_config={"known_trip_count":{"n":"2"}}
}
"""


def test_bytes_are_those_counted_by_hand_and_loops_count_their_turns():
    """Of two devices: all-reduce 40 + 12 bytes, all-gather half of 40, reduce-scatter half of 40, 256 bytes passed on 2 x 3 times."""
    found = collectives.sent_bytes(PROGRAM, 2)
    assert found == {"all-reduce": 52, "all-gather": 20, "reduce-scatter": 20, "collective-permute": 6 * 256}
    assert collectives.sent_bytes(PROGRAM, 1) == {}
    with pytest.raises(ValueError, match="a loop with collective-permute in it has no known number of turns"):
        collectives.sent_bytes(PROGRAM.replace('{"known_trip_count":{"n":"3"}}', "{}"), 2)


def test_bytes_of_a_compiled_program():
    """Every turn of a loop passes 4 bytes x 3 on, and an all-reduce of 7 numbers follows."""
    on = parallel.mesh()

    def body(x):
        x = jax.lax.fori_loop(0, 5, lambda _, x: jax.lax.ppermute(x, parallel.AXIS, [(i, (i + 1) % 4) for i in range(4)]) * 2, x)
        return jax.lax.psum(jnp.tile(x, 3)[:7], parallel.AXIS)

    mapped = jax.jit(jax.shard_map(body, mesh=on, in_specs=PartitionSpec(parallel.AXIS), out_specs=PartitionSpec(), check_vma=False))
    rows = jax.ShapeDtypeStruct((12,), jnp.float32, sharding=NamedSharding(on, PartitionSpec(parallel.AXIS)))
    found = collectives.sent_bytes(mapped.lower(rows).compile().as_text(), 4)
    assert found == {"collective-permute": 5 * 12, "all-reduce": 2 * 28 * 3 / 4}


def test_the_least_is_gradients_and_embeddings_once():
    networks = tiny.spec().networks
    assert networks.embedding == 16
    assert scaling.least(networks, 1000, 20, 4) == {"gradients": 2 * 4000 * 3 / 4, "embeddings": 2 * 2 * 4 * 20 * 16 * 3 / 4}
    assert scaling.least(tiny.spec(ablation__text=False).networks, 1000, 20, 4)["embeddings"] == 2 * 4 * 20 * 16 * 3 / 4
    assert scaling.least(tiny.spec(variant="blind").networks, 1000, 20, 4)["embeddings"] == 0
    assert set(scaling.least(networks, 1000, 20, 1).values()) == {0}


def resized(tree, rows):
    """Shapes of a batch with other numbers of rows."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *np.shape(x)[1:]), x.dtype), tree)


def test_a_step_sends_little_more_than_the_least_and_holds_no_matrix_of_all_pairs(tmp_path):
    """Twelve simulated and eight recorded examples on four devices; no layer is 20 wide."""
    spec = tiny.spec()
    batch = tiny.make_batches(tmp_path, spec).batch_at(0)
    batch = batch._replace(states=resized(batch.states, 12), images=resized(batch.images, 8), keys=resized(batch.keys, 20))
    found = scaling.sends(spec, batch, 4, compiler_options=tiny.FAST)
    assert found["matrices_of_all_pairs"] == []
    assert 1 <= found["over_least"] <= scaling.BAR, found
    assert set(found["by_kind"]) == {"all-reduce", "collective-permute"}
    assert found["by_kind"]["all-reduce"] < 1.001 * found["least"]["gradients"]


def test_the_matrix_of_all_pairs_is_seen_where_there_is_one():
    x = jnp.ones((20, 16))
    plain = jax.jit(lambda *a: parallel.GLOBAL.pair(*a)[0])
    assert collectives.square_matrices(plain.lower(x, x, 0.0, 0.0).compile().as_text(), 20)
    assert collectives.square_matrices(PROGRAM, 20) == []


def test_bad_arguments_are_refused(capsys):
    assert command.main(["scaling", "--rows", "0"]) == 1
    assert "give 1 or more rows" in capsys.readouterr().err
    assert command.main(["scaling", "--accumulate", "2"]) == 1
    assert "5 rows on a device do not divide into 2 parts" in capsys.readouterr().err
