"""Records: what goes in comes out, the same episodes give the same bytes, and damage is named."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import synthetic

from clamp_jax.data import folders, records, shards
from clamp_jax.data.folders import META, Reader, Writer
from clamp_jax.data.records import Episode, check_episode, decode, decode_frame, encode, encode_frame, frames_of, round_depth
from clamp_jax.data.transforms import GEOM_TYPES, SIZES
from clamp_jax.structs import Capacity


def assert_same(found: Episode, expected: Episode) -> None:
    for name in Episode._fields:
        leaves = [jax.tree.leaves(getattr(episode, name)) for episode in (found, expected)]
        assert len(leaves[0]) == len(leaves[1]), name
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_array_equal(a, b if isinstance(b, str) else np.asarray(b, np.asarray(a).dtype), err_msg=name)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("records") / "states", 5)


def test_state_episodes_come_back(states):
    reader = Reader(states)
    assert (len(reader), reader.kind, reader.task, reader.ticks.tolist()) == (5, "state", synthetic.TASK, [60, 61, 62, 63, 64])
    assert reader.meta["instructions"] == {synthetic.INSTRUCTION: 5} and reader.meta["object_names"] == list(synthetic.OBJECTS)
    for i in range(5):
        assert_same(reader[i], synthetic.episode(i, 60 + i))


def test_images_come_back_bit_for_bit_over_several_shards(tmp_path):
    with Writer(tmp_path, task=synthetic.TASK, kind="image", shard_episodes=2) as writer:
        for i in range(5):
            writer.add(synthetic.image_episode(i))
    reader = Reader(tmp_path)
    assert len(list(tmp_path.glob("episodes-*"))) == 3
    for i in range(5):
        assert_same(reader.read_images(i), synthetic.image_episode(i))
        assert reader[i].rgb is None, "numbers are read without images"
    assert reader.frame(3, 2).tick == 40


def test_depth_takes_two_bytes_where_it_counts_tenths_of_a_millimetre_and_four_elsewhere():
    frame = next(frames_of(synthetic.image_episode(0)))
    counts = np.random.default_rng(0).integers(0, 65536, frame.depth_m.shape)
    for depth_m, size in (
        (round_depth(counts / 1e4), 2),
        (round_depth(np.array([[0.0, 6.5535]])), 2),
        (round_depth(np.array([[0.0, 6.5536]])), 4),  # farther than two bytes count
        (frame.depth_m, 4),
        (np.nextafter(round_depth(counts / 1e4), np.float32(9)), 4),  # the least that differs
    ):
        data = encode_frame(frame._replace(depth_m=depth_m))
        found = decode_frame(data)
        assert found.depth_m.dtype == np.float32
        np.testing.assert_array_equal(found.depth_m, depth_m)
        rest = len(encode_frame(frame._replace(depth_m=depth_m[:0])))
        assert abs(len(data) - rest - depth_m.size * size) <= 16  # the header's numbers have more digits


def test_frames_of_schema_1_are_read(tmp_path, monkeypatch):
    """The record beside this test was written by the version that kept depth as float32 alone."""
    data = (Path(__file__).parent / "fixtures" / "frame_schema_1.safetensors").read_bytes()
    frame = decode_frame(data)
    np.testing.assert_array_equal(frame.rgb, np.arange(72, dtype=np.uint8).reshape(4, 2, 3, 3))
    np.testing.assert_array_equal(frame.depth_m, (np.arange(24, dtype=np.float32) * np.float32(0.0371)).reshape(4, 2, 3))
    np.testing.assert_array_equal(frame.calibration.intrinsics, synthetic.calibration(2, 3).intrinsics)
    assert frame.tick == 7
    monkeypatch.setitem(records.SCHEMAS, "image", 1)
    monkeypatch.setattr(folders, "encode_frame", lambda frame: data)
    synthetic.write(tmp_path, 2, kind="image")
    monkeypatch.undo()
    assert Reader(tmp_path).meta["schema"] == 1 and Reader(tmp_path).frame(1, 2).tick == 7
    with pytest.raises(ValueError, match="frame's record has schema 3; this version reads 1 to 2"):
        decode_frame(data.replace(b'schema\\": 1', b'schema\\": 3'))


def test_a_record_is_float32_and_names_nothing_executable():
    episode = decode(encode(synthetic.episode(0)._replace(progress=np.linspace(0, 1, 60), seed=np.int64(7))))
    assert episode.progress.dtype == np.float32 and episode.seed == 7 and isinstance(episode.object_names, tuple)
    with pytest.raises(ValueError, match="no safetensors container"):
        decode(b"\x80\x04K\x01." * 9)


def test_arrays_are_views_of_the_records_bytes_and_what_safetensors_reads():
    for data in (encode(synthetic.episode(0)), encode_frame(next(frames_of(synthetic.image_episode(0))))):
        arrays, expected = records._unpack(data)[0], safetensors.numpy.load(data)
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype and np.shares_memory(array, np.frombuffer(data, np.uint8)) == (array.size > 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["a"].update(dtype="F64"),  # of a type that no record has
        lambda header: header["a"].update(shape=[4]),
        lambda header: header["a"].update(data_offsets=[0, 8]),  # shorter than its shape
        lambda header: header["b"].update(data_offsets=[16, 28]),  # a hole before it
        lambda header: header["b"].update(data_offsets=[12, 40]),  # beyond the end
        lambda header: header.pop("b"),
        lambda header: header.pop("__metadata__"),
    ],
)
def test_a_container_whose_header_does_not_fit_its_bytes_is_refused(change):
    data = records._pack({"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.int32)}, {})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    with pytest.raises(ValueError, match="no safetensors container of this project"):
        records._unpack(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_same_episodes_give_the_same_bytes(states, tmp_path):
    again = synthetic.write(tmp_path / "again", 5)
    for path in sorted(states.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    records = {encode(synthetic.episode(1)) for _ in range(20)}
    frames = {encode_frame(next(frames_of(synthetic.image_episode(1)))) for _ in range(20)}
    assert len(records) == len(frames) == 1


def test_unfinished_folder_is_refused_and_started_again(tmp_path):
    writer = Writer(tmp_path, task=synthetic.TASK, shard_episodes=1)
    writer.add(synthetic.episode(0))
    with pytest.raises(ValueError, match="holds no finished data set"):
        Reader(tmp_path)
    foreign = tmp_path / "other.array_record"
    foreign.touch()
    synthetic.write(tmp_path, 2)
    assert len(Reader(tmp_path)) == 2 and foreign.exists(), "only files of our own names are removed"
    with pytest.raises(ValueError, match="already holds a finished data set"):
        Writer(tmp_path, task=synthetic.TASK)


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), Writer(tmp_path / "broken", task=synthetic.TASK, shard_episodes=2) as writer:
        for i in range(3):
            writer.add(synthetic.episode(i))
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="no episode was added"), Writer(tmp_path / "empty", task=synthetic.TASK):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_shard_that_lost_a_record_is_no_shard(tmp_path, monkeypatch):
    class Forgetful(shards.ArrayRecordWriter):
        records = 0

        def write(self, record):
            self.records += 1
            if self.records != 3:
                super().write(record)

    monkeypatch.setattr(shards, "ArrayRecordWriter", Forgetful)
    with pytest.raises(OSError, match="episodes-00000.array_record cannot be written .*3 of 4 records"):
        synthetic.write(tmp_path, 4)
    assert list(tmp_path.iterdir()) == []


def test_every_damage_of_a_shard_is_named_before_a_value_is_used(states, tmp_path):
    shard = "episodes-00000.array_record"
    whole = (states / shard).read_bytes()
    (tmp_path / META).write_bytes((states / META).read_bytes())
    (tmp_path / shard).write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match=f"{shard} has {len(whole) - 1000} bytes .* expected {len(whole)}"):
        Reader(tmp_path)
    expected, damaged = [encode(Reader(states)[i]) for i in range(5)], 0
    for place in np.random.default_rng(0).integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        (tmp_path / shard).write_bytes(flipped)
        with pytest.raises(ValueError, match=shard):
            Reader(tmp_path).verify()
        for i in range(5):
            try:
                assert encode(Reader(tmp_path)[i]) == expected[i]
            except ValueError as error:
                assert shard in str(error)
                damaged += 1
    assert damaged > 10
    (tmp_path / shard).unlink()
    with pytest.raises(ValueError, match=f"{shard} has None bytes"):
        Reader(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"task": "other"}, "was changed"), ({"schema": 99}, "has schema 99; this version reads 1 to 1")],
)
def test_a_changed_meta_is_refused(states, tmp_path, change, message):
    meta = json.loads((states / META).read_text())
    (tmp_path / META).write_text(json.dumps(meta | change))
    with pytest.raises(ValueError, match=message):
        Reader(tmp_path)
    (tmp_path / META).write_text((states / META).read_text()[:50])
    with pytest.raises(ValueError, match="is damaged"):
        Reader(tmp_path)


@pytest.mark.parametrize("name", ["bodies", "qpos", *GEOM_TYPES])
def test_overflow_is_refused_when_records_are_made(tmp_path, name):
    episode = synthetic.episode(0)
    used = {"bodies": 23, "qpos": 30, "plane": 1, "sphere": 1, "capsule": 4, "cylinder": 0, "box": 4}
    if name in ("bodies", "qpos"):
        sizes = SIZES._replace(**{name: used[name] - 1})
    elif used[name]:
        sizes = SIZES._replace(geoms=Capacity()._replace(**{name: used[name] - 1}))
    else:
        episode = episode._replace(geom_types=np.where(episode.geom_types == GEOM_TYPES["plane"], GEOM_TYPES[name], episode.geom_types))
        sizes, used[name] = SIZES._replace(geoms=Capacity()._replace(**{name: 0})), 1
    with pytest.raises(ValueError, match=f"{used[name]} .*{name}.* capacity is {used[name] - 1}"):
        Writer(tmp_path, task=synthetic.TASK, sizes=sizes).add(episode)


def _with(**changes):
    return synthetic.episode(0)._replace(**changes)


def _images(**changes):
    return synthetic.image_episode(0)._replace(**changes)


_NAN = np.full((60, 14), np.nan, np.float32)


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (lambda: _with(kind="video"), "kind is 'video'; expected one of"),
        (lambda: _with(actions=np.zeros((0, 14))), "actions is empty"),
        (lambda: _with(joints=np.zeros((60, 7))), r"joints has shape \(60, 7\); expected \(60, 14\)"),
        (lambda: _with(actions=_NAN), "actions holds a value that is not finite"),
        (lambda: _with(progress=np.linspace(0, 100, 60)), "progress spans 0.0 to 100.0; expected 0 to 1"),
        (lambda: _with(object_names=("a",)), "object_positions has shape .* one row a name"),
        (lambda: _with(qpos=None), "qpos is missing"),
        (lambda: _with(geoms=synthetic.scene_geoms()[1]._replace(body=np.full(10, 23))), "body spans 23 to 23; the tree has 23"),
        (lambda: _with(tree=synthetic.scene_tree()._replace(parent=np.arange(23))), "expected parents before their children"),
        (lambda: _with(qpos=synthetic.episode(0).qpos[:, :20]), "qpos_start spans 0 to 23; qpos has 20 entries"),
        (lambda: _with(geom_types=np.full(10, 7)), r"geom type\(s\) \[7\] of MuJoCo have no slots"),
        (lambda: _images(ticks=np.array([0, 40, 20])), "ticks must increase"),
        (lambda: _images(rgb=np.zeros((3, 4, 8, 8, 3), np.float32)), "rgb is float32; expected uint8"),
        (lambda: _images(depth_m=np.ones((3, 4, 8, 8), np.uint16)), "depth_m is uint16 .* metres as float32"),
        (lambda: _images(calibration=None), "needs a calibration"),
    ],
)
def test_an_invalid_episode_is_refused_by_name(tmp_path, episode, message):
    kind = "image" if "rgb" in message or "depth" in message or "ticks" in message or "calibration" in message else "state"
    with pytest.raises(ValueError, match=message):
        Writer(tmp_path, task=synthetic.TASK, kind=kind).add(episode())


def test_a_folder_holds_one_task_and_one_kind(tmp_path):
    writer = Writer(tmp_path, task=synthetic.TASK)
    with pytest.raises(ValueError, match="one folder each"):
        writer.add(synthetic.episode(0, task="other"))
    with pytest.raises(ValueError, match="one folder each"):
        writer.add(synthetic.image_episode(0))
    check_episode(synthetic.episode(0, names=()))  # a scene without objects is valid


def test_threads_read_the_same(states):
    reader = Reader(states)
    order = np.random.default_rng(0).integers(0, 5, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: reader[i].seed, order))
    assert found == order


def test_a_scene_without_objects_comes_back(tmp_path):
    expected = synthetic.episode(0, names=())
    with Writer(tmp_path, task=synthetic.TASK) as writer:
        writer.add(expected)
    assert_same(Reader(tmp_path)[0], expected)
