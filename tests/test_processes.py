"""The flag by which processes find each other: every missing or wrong part is named."""

import jax
import pytest

from clamp_jax import processes

ADDRESS = "10.0.0.1:8476"


def test_one_process_and_what_jax_finds_itself_need_no_more():
    assert processes.read_flag("off", 0, -1, {"CLAMP_PROCESSES": "3"}) is None
    assert processes.read_flag("auto", 0, -1, {}) == {}


@pytest.mark.parametrize(("flags", "environ"), [((4, 2), {}), ((0, -1), {"CLAMP_PROCESSES": "4", "CLAMP_PROCESS": "2"}),
                                                ((4, 2), {"CLAMP_PROCESSES": "9", "CLAMP_PROCESS": "8"})])  # fmt: skip
def test_an_address_takes_number_and_index_from_flags_or_the_environment(flags, environ):
    found = processes.read_flag(ADDRESS, *flags, environ)
    assert found == {"coordinator_address": ADDRESS, "num_processes": 4, "process_id": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("on", 0, -1, {}), "--distributed is 'on'; expected off, auto, or HOST:PORT"),
        (("host:", 2, 0, {}), "--distributed is 'host:'"),
        (("host:99999", 2, 0, {}), "--distributed is 'host:99999'"),
        ((ADDRESS, 0, 0, {}), "needs the number of processes: --processes N, or \\$CLAMP_PROCESSES"),
        ((ADDRESS, 2, -1, {}), "the index of this process is missing; .* or \\$CLAMP_PROCESS, from 0 to 1"),
        ((ADDRESS, 2, 2, {}), "the index of this process is 2; .* from 0 to 1"),
        ((ADDRESS, 0, -1, {"CLAMP_PROCESSES": "two"}), "\\$CLAMP_PROCESSES is 'two'; expected a number"),
        (("off", 2, -1, {}), "--processes and --process go with --distributed HOST:PORT, not with 'off'"),
        (("auto", 0, 1, {}), "not with 'auto'"),
    ],
)
def test_what_is_missing_or_wrong_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.read_flag(*arguments)


def test_a_cluster_that_is_not_there_is_told_in_words(monkeypatch):
    def nothing_found(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(processes.jax.distributed, "initialize", nothing_found)
    with pytest.raises(ValueError, match="no TPU pod, SLURM or Open MPI job was found in the environment; give --distributed HOST:PORT"):
        processes.start("auto")


def test_jax_that_has_begun_already_is_told_in_words():
    assert jax.devices()
    with pytest.raises(ValueError, match="--distributed localhost:8476 failed: .*must be called before"):
        processes.start("localhost:8476", 1, 0)


def test_one_process_is_the_first_and_alike():
    assert processes.rank() == (0, 1) and processes.first()
    processes.check_alike({"a": 1}, "the config")
