"""ImageNet's ResNet-50 from public files: the feature maps of torchvision's and timm's, and what is refused by name."""

import hashlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from public_layout import resnet_shapes, resnet_tensors, write

from clamp_jax.models.resnet import ResNet
from clamp_jax.models.resnet_weights import read_resnet

FIXTURES = Path(__file__).parent / "fixtures"
RECORDED = np.load(FIXTURES / "ports.npz")
NAMES = {"torchvision": (64, 96), "timm": (65, 97)}  # sizes of the images, one of them odd


@pytest.fixture(scope="module", params=NAMES)
def public(request, tmp_path_factory):
    """A public file, read, and its feature map for the recorded images."""
    name = request.param
    path = write(tmp_path_factory.mktemp("resnet") / f"{name}.safetensors", resnet_tensors(name))
    weights = read_resnet(path)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    images = RECORDED[f"{name}/images"].astype(np.float32) / 127.5 - 1
    assert images.shape[1:3] == NAMES[name]
    return name, weights, np.asarray(jax.jit(ResNet(weights.config).apply)({"params": weights.params}, images))


def test_feature_maps_equal_the_recorded_ones(public):
    name, _, features = public
    summary = {"channels": features[..., ::32], "mean": features.mean(axis=-1), "max": features.max(axis=(1, 2))}
    for key, found in summary.items():
        np.testing.assert_allclose(found, RECORDED[f"{name}/{key}"], atol=1e-4)
    assert features.shape[1:3] == tuple(-(-size // 32) for size in NAMES[name]) and features.mean() > 0.3


@pytest.mark.filterwarnings("ignore")  # of packages that the project does not use
def test_feature_maps_equal_those_of_torch_run_now(public):
    name, _, features = public
    for package in ("torch", name):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'clamp-jax[bench]'")
    sys.path.insert(0, str(FIXTURES))
    from record_ports import resnet_features, summary

    images, live = resnet_features(name)
    np.testing.assert_array_equal(images, RECORDED[f"{name}/images"])
    np.testing.assert_allclose(features, live, atol=1e-4)
    for key, value in summary(live).items():
        np.testing.assert_allclose(RECORDED[f"{name}/{key}"], value, atol=1e-5, err_msg="record_ports.py gives something else now")


def test_parameters_are_those_that_the_network_makes(public):
    _, weights, _ = public
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    wanted = jax.eval_shape(ResNet(weights.config).init, jax.random.key(0), images)["params"]
    assert jax.tree.map(np.shape, weights.params) == jax.tree.map(lambda leaf: leaf.shape, wanted)


def test_batch_norm_is_folded(public):
    name, weights, _ = public
    tensors = {key: value.astype(np.float64) for key, value in resnet_tensors(name).items() if key.startswith("layer2.0.downsample.1")}
    weight, bias, mean, variance = (tensors[f"layer2.0.downsample.1.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    x, found = np.linspace(-2, 2, 512), weights.params["stage_1_block_0"]["norm_shortcut"]
    np.testing.assert_allclose(x * found["scale"] + found["bias"], (x - mean) / np.sqrt(variance + 1e-5) * weight + bias, atol=1e-6)


def zeros(folder: Path, change=lambda tensors: None) -> Path:
    """A folder with a ResNet-50 of zeros, changed before it is written."""
    tensors = {name: np.zeros(shape, np.float32) for name, shape in resnet_shapes().items()}
    change(tensors)
    write(folder / "model.safetensors", tensors)
    return folder


def drop(*starts):
    def change(tensors):
        for name in [name for name in tensors if name.startswith(starts)]:
            del tensors[name]

    return change


def put(name, value):
    return lambda tensors: tensors.update({name: value})


def basic(tensors):
    """As ResNet-18 and 34 are: two convolutions a block."""
    for name in [name for name in tensors if ".conv3." in name or ".bn3." in name]:
        del tensors[name]


SMALL = np.zeros((64, 32, 3, 3), np.float32)
REFUSED = {
    "missing": (drop("layer3.2.bn2.running_mean"), r"missing is 'layer3.2.bn2.running_mean' \(256,\)"),
    "extra": (put("layer1.0.se.fc1.weight", SMALL), r"not known is 'layer1.0.se.fc1.weight' \(64, 32, 3, 3\)"),
    "misshapen": (put("layer1.0.conv2.weight", SMALL), r"'layer1.0.conv2.weight' \(64, 32, 3, 3\) in place of \(64, 64, 3, 3\)"),
    "integers": (put("bn1.weight", np.zeros(64, np.int64)), "'bn1.weight' I64 in place of one of F32"),
    "not finite": (put("bn1.weight", np.full(64, np.inf, np.float32)), "not finite are numbers of 'bn1.weight'"),
    "no variances": (put("bn1.running_var", np.full(64, -1, np.float32)), "'bn1.running_var' goes down to -1, expected variances"),
    "ResNet-101": (put("layer3.22.bn1.weight", SMALL), r"expected \(3, 4, 6, 3\) blocks a stage, .*'layer3' has 7"),
    "a stage that is gone": (drop("layer4."), "'layer4' has 0"),
    "ResNet-18": (basic, "no block has a third convolution, 'layer1.0.conv3.weight', as those of ResNet-18 and 34 have none"),
    "ResNet-50-D": (put("conv1.0.weight", SMALL), "'conv1.0.weight' is the deep stem of a ResNet-D"),
    "nothing of a ResNet": (drop("layer", "bn1", "conv1"), r"missing is 'conv1.weight' \(64, 3, 7, 7\), .* and 261 more"),
}


@pytest.mark.parametrize("change, match", REFUSED.values(), ids=REFUSED)
def test_tensors_that_are_not_those_of_a_resnet_50_are_refused_by_name(tmp_path, change, match):
    with pytest.raises(ValueError, match=f"model.safetensors is not a ResNet-50 in torchvision's or timm's layout: .*{match}"):
        read_resnet(zeros(tmp_path, change))
    (tmp_path / "model.safetensors").unlink()


def test_files_without_counters_and_classifier_are_read_from_a_folder(tmp_path):
    found = read_resnet(zeros(tmp_path, drop("fc.", "bn1.num_batches_tracked")))
    assert found.params["stem"]["conv"]["kernel"].shape == (7, 7, 3, 64)
    (tmp_path / "model.safetensors").unlink()


def test_a_path_without_a_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="resnet50.safetensors is no file and no folder; expected a ResNet-50"):
        read_resnet(tmp_path / "resnet50.safetensors")
