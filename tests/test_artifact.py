"""The artifact: the same numbers as in memory, and refused when anything does not match."""

import dataclasses
import datetime
import json
import shutil
import subprocess
import sys

import deployed
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from clamp_jax.deploy import artifact, loader, safety


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return artifact.write_artifact(tmp_path_factory.mktemp("artifacts") / "policy", deployed.act, deployed.params(), deployed.description())


@pytest.fixture(scope="module")
def policy(folder):
    return artifact.load_artifact(folder, instruction=deployed.INSTRUCTION)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def inputs(spec, batch=1):
    """Different valid examples."""
    parts = [artifact.example_inputs(spec, seed) for seed in range(batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def rewrite(folder, name, data):
    """Change a file as someone who also mends the manifest would."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    list_files(folder, files | {name: loader.sha256(folder / name)})


def list_files(folder, files):
    (folder / "manifest.json").write_text(json.dumps({"files": files, "sha256": loader.canonical_hash(files)}))


@pytest.mark.parametrize("batch", [1, 3])
def test_exported_equals_in_memory(policy, batch):
    given = inputs(policy.spec, batch)
    found = policy(given)["actions"]
    for i in range(batch):
        np.testing.assert_allclose(found[i], deployed.in_memory(deployed.params(), given, i), atol=1e-5)


def test_every_input_counts_and_the_seed_decides_the_noise(policy):
    given = inputs(policy.spec)
    before = policy(given)["actions"]
    np.testing.assert_array_equal(policy(given)["actions"], before)
    changed = {
        "rgb": given["rgb"] // 2,
        "depth_m": given["depth_m"] + np.float32(1),
        "intrinsics": given["intrinsics"] * np.float32(2),
        "parent_from_camera": given["parent_from_camera"] + np.float32([[0, 0, 0, 0.5]] * 3 + [[0] * 4]),
        "world_from_base": given["world_from_base"] + np.float32([[0, 0, 0, 0.5]] * 3 + [[0] * 4]),
        "joints": given["joints"] + np.float32(0.1),
        "past_actions": given["past_actions"] + np.float32(0.1),
        "past_mask": ~given["past_mask"],
        "seed": given["seed"] + np.uint32(1),
        "frozen_steps": given["frozen_steps"] + np.int32(2),
    }
    assert changed.keys() | {"frozen_actions"} == given.keys()
    frozen = policy(given | {"frozen_steps": np.int32([3]), "frozen_actions": given["frozen_actions"] + np.float32(0.7)})["actions"]
    np.testing.assert_array_equal(frozen[0, :3], np.full((3, 14), np.float32(0.7)))
    assert np.abs(frozen[0, 3:] - before[0, 3:]).min() > 0.01
    for name, value in changed.items():
        assert np.abs(policy(given | {name: value})["actions"] - before).max() > 1e-4, name


def test_frozen_actions_are_kept_and_move_the_rest_where_steps_says_so(policy):
    given = inputs(policy.spec, 3)
    free = policy(given)["actions"]
    rows = given["frozen_actions"] + np.float32(0.2)
    np.testing.assert_array_equal(policy(given | {"frozen_actions": rows})["actions"], free)
    found = policy(given | {"frozen_actions": rows, "frozen_steps": np.int32([0, 4, 49])})["actions"]
    np.testing.assert_array_equal(found[0], free[0])
    for row, steps in ((1, 4), (2, 49)):
        np.testing.assert_array_equal(found[row, :steps], rows[row, :steps])
        assert np.abs(found[row, steps:] - free[row, steps:]).max() > 1e-3


def test_every_file_can_be_read_by_the_user_that_serves_it(folder):
    for path in (folder, *folder.iterdir()):
        assert path.stat().st_mode & 0o044 == 0o044, path.name


def test_weights_are_arguments(tmp_path):
    """A hundred times the weights, the same program."""
    large = deployed.params() | {"unused": np.zeros((500, 500), np.float32)}
    small, big = (
        artifact.write_artifact(tmp_path / name, deployed.act, tree, deployed.description())
        for name, tree in (("small", deployed.params()), ("big", large))
    )
    sizes = [(f / "policy.stablehlo").stat().st_size for f in (small, big)]
    assert abs(sizes[1] - sizes[0]) < 1000
    assert (big / "weights.safetensors").stat().st_size > 1_000_000


def test_runs_with_jax_numpy_flatbuffers_and_safetensors_alone(folder):
    """A process that can import nothing else that was installed, and nothing of ours but the copy in the artifact."""
    code = """
import sys
from importlib.machinery import PathFinder
ALLOWED = {"jax", "jaxlib", "numpy", "flatbuffers", "safetensors", "ml_dtypes", "opt_einsum", "scipy"}  # the last three: jax's own
class Others:
    def find_spec(self, name, path=None, target=None):
        found = None if "." in name or name in ALLOWED else PathFinder.find_spec(name, path)
        if found is not None and "site-packages" in str(found.origin):
            raise ModuleNotFoundError(name + " is not here", name=name)
sys.meta_path.insert(0, Others())
import loader, numpy as np
policy = loader.load_artifact(sys.argv[1])
stored, _ = loader.read_safetensors(sys.argv[1] + "/example.safetensors")
expected = stored.pop("actions")
print(np.abs(policy(stored)["actions"] - expected).max() < 1e-5, "clamp_jax" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=folder, capture_output=True, text=True, timeout=100)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("name", loader.FILES)
def test_one_changed_bit_is_refused_by_name(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} has SHA-256 .* the manifest says"):
        artifact.load_artifact(copy)


@pytest.mark.parametrize("name", [*loader.FILES, "manifest.json"])
def test_a_missing_file_is_refused_by_name(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        artifact.load_artifact(copy)


def test_manifest_must_list_the_files_and_stay_in_the_folder(copy):
    files = json.loads((copy / "manifest.json").read_text())["files"]
    list_files(copy, {k: v for k, v in files.items() if k != "spec.json"})
    with pytest.raises(ValueError, match=r"does not list spec\.json"):
        artifact.load_artifact(copy)
    list_files(copy, files | {"../x": "0"})
    with pytest.raises(ValueError, match="plain file names"):
        artifact.load_artifact(copy)


def test_the_manifest_carries_its_own_hash(copy):
    path = copy / "manifest.json"
    text = path.read_text()
    files = json.loads(text)["files"]
    for at in range(0, len(text), 7):
        data = bytearray(text.encode())
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"manifest\.json"):
            loader.verify_files(copy)
    path.write_text(json.dumps(files))
    with pytest.raises(ValueError, match="not an artifact's manifest"):
        loader.verify_files(copy)


def test_statistics_of_other_weights_are_refused(copy):
    spec = json.loads((copy / "spec.json").read_text())
    spec["statistics"]["working_range"][0][0] -= 0.1
    rewrite(copy, "spec.json", json.dumps(spec).encode())
    with pytest.raises(ValueError, match="the weights were trained with"):
        artifact.load_artifact(copy)


def test_other_weights_are_refused(copy, tmp_path):
    metadata = loader.read_safetensors(copy / "weights.safetensors")[1]
    tree = deployed.params() | {"move": np.zeros((14, 13), np.float32)}
    artifact.write_safetensors(tmp_path / "w", artifact.flatten(tree), metadata)
    rewrite(copy, "weights.safetensors", (tmp_path / "w").read_bytes())
    with pytest.raises(ValueError, match=r"weight 'move' is \[\[14, 13\], 'float32'\], spec.json says \[\[14, 14\]"):
        artifact.load_artifact(copy)


def test_weights_of_the_same_shape_and_another_program_are_refused(copy, tmp_path):
    """Though someone mended the manifest: the specification was written for both."""
    before = (copy / "weights.safetensors").read_bytes()
    rewrite(copy, "weights.safetensors", before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"weights.safetensors has SHA-256 .*, spec.json was written for"):
        artifact.load_artifact(copy)
    rewrite(copy, "weights.safetensors", before)
    rewrite(copy, "policy.stablehlo", (copy / "policy.stablehlo").read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"policy.stablehlo has SHA-256 .*, spec.json was written for"):
        artifact.load_artifact(copy)


def test_another_instruction_or_format_is_refused(copy):
    with pytest.raises(ValueError, match="'open it', this policy was trained for 'close the drawer'"):
        artifact.load_artifact(copy, instruction="open it")
    spec = json.loads((copy / "spec.json").read_text()) | {"format": 99}
    rewrite(copy, "spec.json", json.dumps(spec).encode())
    with pytest.raises(ValueError, match="format 99"):
        artifact.load_artifact(copy)


def with_value(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("depth_m", lambda a: (a * 1e4).astype(np.uint16), "'depth_m' is uint16; pass metres"),
        ("depth_m", lambda a: with_value(a, (0, 2, 0, 0), np.nan), r"1 values that are not finite \(cameras \['wrist_left'\]\)"),
        ("depth_m", lambda a: a * 1000, "looks like millimetres"),
        ("depth_m", lambda a: -a, "expected metres, 0 where nothing"),
        ("depth_m", lambda a: a.astype(np.float64), "dtype float64; expected float32"),
        ("rgb", lambda a: a[:, :3], "shape .1, 3, 6, 8, 3.; expected .batch, 4, 6, 8, 3."),
        ("rgb", lambda a: a.transpose(0, 1, 4, 2, 3), "expected .batch, 4, 6, 8, 3.: cameras in the order"),
        ("rgb", lambda a: (a / 255).astype(np.float32), "dtype float32; expected uint8"),
        ("joints", lambda a: with_value(a, (0, 3), np.inf), "'joints' has 1 values that are not finite"),
        ("intrinsics", lambda a: a * 0, "focal length of 0"),
        ("parent_from_camera", lambda a: a * 2, "no rigid transform"),
        ("parent_from_camera", lambda a: a * np.float32([-1, 1, 1, 1]), "no rigid transform"),  # mirrored
        ("world_from_base", lambda a: with_value(a, (0, 0, 3, 0), 0.1), "no rigid transform"),
        ("past_mask", lambda a: a.astype(np.float32), "dtype float32; expected bool"),
        ("seed", lambda a: a[:0], "batch sizes"),
    ],
)
def test_wrong_inputs_are_refused(policy, name, change, found):
    given = inputs(policy.spec)
    with pytest.raises(ValueError, match=found):
        policy(given | {name: change(given[name])})


def test_missing_and_unknown_inputs_are_listed(policy):
    given = inputs(policy.spec)
    del given["rgb"], given["seed"]
    with pytest.raises(ValueError, match=r"missing: \['rgb', 'seed'\], unknown: \['image'\]"):
        policy(given | {"image": np.zeros(1)})


def test_nothing_stays_behind_when_writing_fails(tmp_path, folder):
    fails = dataclasses.replace(deployed.act, decide=lambda tree, memory, noise, frozen: noise * jnp.nan)
    with pytest.raises(ValueError, match="'actions' is not finite"):
        artifact.write_artifact(tmp_path / "a", fails, deployed.params(), deployed.description())

    def refuse(written):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        artifact.write_artifact(tmp_path / "a", deployed.act, deployed.params(), deployed.description(), check=refuse)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileExistsError, match="never overwritten"):
        artifact.write_artifact(folder, deployed.act, deployed.params(), deployed.description())


def test_verify_runs_the_stored_example(copy):
    report = artifact.verify_artifact(copy)
    assert report["difference"] <= 1e-6 and "loader.py" in report["files"] and report["loads_until"] > "2026"
    stored, _ = loader.read_safetensors(copy / "example.safetensors")
    stored["actions"] = stored["actions"] + np.float32(0.01)
    artifact.write_safetensors(copy / "example.safetensors", stored, {})
    rewrite(copy, "example.safetensors", (copy / "example.safetensors").read_bytes())
    with pytest.raises(ValueError, match="differ by 0.01"):
        artifact.verify_artifact(copy)


def test_specification_says_what_a_robot_must_know(policy):
    spec = policy.spec
    assert spec["loads_until"] > spec["date"] and spec["platforms"] == ["cpu", "cuda", "tpu"]
    assert spec["inputs"]["depth_m"]["unit"].startswith("m along") and spec["image_size"] == [6, 8]
    assert (spec["control_hz"], spec["chunk"]) == (50, 50) and len(spec["limits"]["joint_limits_rad"]) == 6
    entries = [*spec["inputs"].values(), *spec["outputs"].values()]
    assert all({"shape", "dtype", "unit", "frame", "axes"} <= entry.keys() for entry in entries)
    assert {"jax", "jaxlib", "numpy", "python", "clamp_jax"} <= spec["versions"].keys()


def test_weights_are_what_the_library_reads_to_the_bit(folder):
    found = safetensors.numpy.load_file(folder / "weights.safetensors")
    expected = artifact.flatten(deployed.params())
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].tobytes() == array.tobytes()


def test_arrays_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {str(t): rng.integers(0, 100, (3, 2)).astype(t) for t in ("f4", "f8", "f2", "i4", "i8", "u1", "u4", "?")}
    arrays |= {"scalar": np.array(3, np.float32), "empty": np.zeros((0, 4), np.float32)}
    arrays |= {"transposed": arrays["f4"].T, "strided": arrays["f8"][::2], "bfloat16": np.asarray(jnp.arange(6, dtype=jnp.bfloat16))}
    artifact.write_safetensors(tmp_path / "x", arrays, {"key": "value"})
    found, metadata = loader.read_safetensors(tmp_path / "x")
    assert metadata == {"key": "value"} and found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_a_cut_safetensors_file_is_refused(tmp_path):
    artifact.write_safetensors(tmp_path / "x", {"x": np.ones(100, np.float32)}, {})
    whole = (tmp_path / "x").read_bytes()
    for keep in (300, 40, 3, 0):
        (tmp_path / "cut").write_bytes(whole[:keep])
        with pytest.raises(ValueError, match="cut is damaged"):
            loader.read_safetensors(tmp_path / "cut")


def test_batches_of_any_size_give_the_same_rows(policy):
    given = artifact.stored_inputs(policy.spec) | {}
    given = {name: np.concatenate([value, value, value])[:5] for name, value in given.items()}
    given["seed"] = np.arange(5, dtype=np.uint32)
    whole = policy(given)["actions"]
    for size in (1, 2):
        for start in range(0, 5 - size + 1, size):
            part = policy({name: value[start : start + size] for name, value in given.items()})["actions"]
            np.testing.assert_allclose(part, whole[start : start + size], atol=1e-6)


def test_hashes_stand_in_the_specification_and_limits_of_commands_too(policy, folder):
    spec, limits = policy.spec, safety.aloha_limits()._asdict()
    for name in ("policy.stablehlo", "weights.safetensors"):
        assert spec["hashes"][name] == loader.sha256(folder / name)
    assert spec["hashes"]["statistics"] == loader.statistics_hash(spec["statistics"])
    commands = spec["limits"]["commands"]
    assert commands["names"][5:8] == ["left/wrist_rotate", "left/gripper", "right/waist"] and len(commands["names"]) == 14
    for name, values in limits.items():
        np.testing.assert_array_equal(commands[name], values, err_msg=name)


def forge(folder, name, data):
    """Change the program as someone who mends the specification too would."""
    rewrite(folder, name, data)
    spec = json.loads((folder / "spec.json").read_text())
    spec["hashes"][name] = loader.sha256(folder / name)
    rewrite(folder, "spec.json", json.dumps(spec).encode())


def test_a_program_that_cannot_be_read_names_date_and_versions(folder, copy):
    whole = (folder / "policy.stablehlo").read_bytes()
    module = whole.index(b"ML\xefR")  # the program inside jax's shell has versions of its own
    for data in (b"", b"\0" * 64, whole[: len(whole) // 3], whole[:module] + b"XXXX" + whole[module + 4 :]):
        forge(copy, "policy.stablehlo", data)
        with pytest.raises(ValueError, match=r"was written on .* by jax \d.* until 20.*; jax \d\S+ cannot read it"):
            artifact.load_artifact(copy)


def test_past_the_promise_a_warning_says_so(tmp_path):
    how = {"today": datetime.date(2020, 1, 1), "check": artifact.load_artifact}
    with pytest.warns(UserWarning, match="promises to load it until 2020-07-01"):
        artifact.write_artifact(tmp_path / "a", deployed.act, deployed.params(), deployed.description(), **how)


def test_frozen_steps_out_of_range_are_refused(policy):
    given = inputs(policy.spec)
    for wrong in (-1, 50):
        with pytest.raises(ValueError, match="'frozen_steps' has"):
            policy(given | {"frozen_steps": np.int32([wrong])})
