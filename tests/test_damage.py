"""Whatever is damaged in a data set's folder is named before a value of it is used, and all of it by the verifying tool."""

import damage
import numpy as np
import pytest
import synthetic

from clamp_jax.data.folders import META, Reader
from clamp_jax.data.pipeline import Batches, ExampleMaker, open_dataset
from data_tools import verify


def test_of_hundreds_of_random_damages_every_one_is_named_and_no_value_is_wrong(tmp_path):
    found = damage.count(tmp_path, 400)
    assert sum(found.values()) == 400
    # damages of what records are made of were among them, not of padding alone
    assert found["flip", "named when read"] >= 3 and found["blank", "named when read"] >= 20


def test_every_flip_of_meta_is_named(tmp_path):
    folder = synthetic.write(tmp_path / "data", 2)
    whole = (folder / META).read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        (folder / META).write_bytes(flipped)
        with pytest.raises(ValueError, match=META):
            Reader(folder)
    # the same content in other letters is no damage to a value, but it is not what was written
    (folder / META).write_bytes(whole.replace(b'"kind": "state"', b'"kind":  "state"'))
    with pytest.raises(ValueError, match="the same in other letters"):
        Reader(folder)


def test_verify_names_everything_in_several_folders(tmp_path, capsys):
    folders = [synthetic.write(tmp_path / name, 3, kind=kind) for name, kind in (("a", "image"), ("b", "state"), ("c", "image"))]
    assert verify.main([str(folder) for folder in folders]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(folder) for folder in folders]
    assert "whole, 3 episodes (image) in 2 shards" in lines[0]
    (folders[0] / "episodes-00000.array_record").unlink()
    path = folders[0] / "frames-00000.array_record"
    path.write_bytes(damage.flip(path.read_bytes(), np.random.default_rng(0)))
    (folders[2] / META).unlink()
    assert verify.main([str(folder) for folder in folders]) == 1
    told = capsys.readouterr()
    assert "episodes-00000.array_record cannot be read (No such file" in told.err
    assert "frames-00000.array_record is not what was written" in told.err and f"{folders[2]} holds no finished data set" in told.err
    assert told.out.startswith(f"{folders[1]}: whole") and len(told.err.splitlines()) == 3
    with pytest.raises(ValueError, match="episodes-00000.*frames-00000"):
        restored = Reader(synthetic.write(tmp_path / "d", 3, kind="image"))
        for name in ("episodes-00000.array_record", "frames-00000.array_record"):
            (tmp_path / "d" / name).unlink()
        restored.verify()


def test_a_shard_that_vanishes_while_training_is_named_by_the_iterator(tmp_path):
    dataset = open_dataset(synthetic.write(tmp_path, 6))
    maker = ExampleMaker(synthetic.tokenize, text_length=96, calibration=synthetic.calibration(8, 8))
    batches = Batches([dataset], maker, batch=2, seed=0)
    next(tmp_path.glob("episodes-*")).unlink()
    with pytest.raises(ValueError, match="episodes-00000.array_record cannot be read at record .*restore it or make it again"):
        next(batches.iterate())
