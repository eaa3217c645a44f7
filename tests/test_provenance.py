"""With which calibration a policy's data were recorded: from the data set to what a server tells, each hand-over."""

import datetime

import deployed
import pytest
import synthetic
import tiny

from clamp_jax import act
from clamp_jax.data.folders import CALIBRATIONS, IMAGES_OF, Reader, Writer
from clamp_jax.deploy import artifact, model_card, request
from clamp_jax.deploy import calibration as files
from clamp_jax.deploy.client import Client
from clamp_jax.deploy.server import Settings, serving
from experiments import card, export, finetune, training

ONE, OTHER = "0123456789abcdef", "fedcba9876543210"


def recorded(folder, origin, seed=0):
    """A data set of image records with this origin."""
    with Writer(folder, task=synthetic.TASK, kind="image", origin=origin) as writer:
        for number in range(6):
            writer.add(synthetic.image_episode(seed + number, 60 + number))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {
        "one": recorded(root / "one", {CALIBRATIONS: [OTHER, ONE]}),
        "two": recorded(root / "two", {CALIBRATIONS: [ONE]}, seed=10),
        "silent": recorded(root / "silent", None, seed=20),
        "drawn": recorded(root / "drawn", {IMAGES_OF: "some states"}, seed=30),
        "drawn elsewhere": recorded(root / "elsewhere", {IMAGES_OF: "some states", CALIBRATIONS: [ONE]}, seed=40),
        "states": synthetic.write(root / "states", 6),
    }


def test_a_data_set_names_its_calibrations_and_the_simulators_is_the_nominal_one(folders):
    found = {name: Reader(folder).calibrations for name, folder in folders.items()}
    made = {"drawn": ("nominal",), "drawn elsewhere": (ONE,), "states": ("nominal",)}
    assert found == {"one": (OTHER, ONE), "two": (ONE,), "silent": ()} | made


@pytest.mark.parametrize(
    ("names", "expected"),
    [("one two", [ONE, OTHER]), ("states two", [ONE, "nominal"]), ("silent", []), ("states", ["nominal"])],
)
def test_what_travels_with_the_weights_names_those_of_all_data_sets_once(folders, names, expected):
    section = tiny.config("finetune", *(folders[name] for name in names.split())).data
    _, document = training.open_batches(section, tiny.spec("finetune").networks, batch=4, seed=0)
    assert document[CALIBRATIONS] == expected


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """The folder of a fine-tuning run of one step on recorded images."""
    workdir = tmp_path_factory.mktemp("run") / "finetune"
    config = tiny.config("finetune", folders["one"], variant="scratch")
    finetune.run(config, workdir, stop_at=1, tell=lambda progress: None)
    return workdir


def spec_of(about):
    return artifact.make_spec({}, about, today=datetime.date(2026, 1, 31))


def test_a_run_hands_them_to_its_artifact_the_card_and_the_server(run):
    loaded = act.load_run(run)
    spec = spec_of(export.describe(loaded, "close it", 2))
    assert spec["training"]["calibrations"] == spec["statistics"]["calibrations"] == [ONE, OTHER]
    assert f"Recorded with calibrations {ONE}, {OTHER}:" in model_card.write(spec, licence="MIT")
    policy = deployed.StubPolicy()
    policy.spec["training"] = spec["training"]
    with serving(policy, deployed.warm(), Settings(port=0)) as url, Client(url) as client:
        assert client.connect(60)["calibrations"] == [ONE, OTHER]


def test_runs_and_artifacts_that_are_older_say_nothing_and_go_on(run):
    loaded = act.load_run(run).loaded
    before = loaded._replace(statistics={name: value for name, value in loaded.statistics.items() if name != CALIBRATIONS})
    assert card.training(before)["calibrations"] == []
    assert request.metadata(deployed.specification())["calibrations"] == []
    assert "is not known" in model_card.write(spec_of(deployed.description()), licence="MIT")


def test_what_people_are_told_of_a_cell():
    cell = files.nominal(48, 64)
    assert files.difference(["nominal"], cell) == "" and files.difference([ONE, cell.id], cell) == ""
    assert files.difference([ONE], cell) == f"trained with calibration {ONE}, this cell has {cell.id}"
    mine = cell._replace(date="2026-01-02")
    assert files.difference(["nominal"], mine) == f"trained with calibration nominal (the simulator's), this cell has {mine.id}"
    assert files.difference([], mine) == f"the policy does not say with which calibration it was trained, this cell has {mine.id}"
