"""A run on a small disk of its own that fills: it ends in words, nothing is lost, and the same command goes on."""

import errno
import os
import resource
import subprocess

import numpy as np
import pytest
from toy_loop import STEPS, go

from clamp_jax import checkpoint
from experiments import training

WIDTH = 100_000  # numbers of a state's only network: a checkpoint has three times 0.4 MB
FREE_FOR_LINES = 64 << 10  # bytes: enough for lines of the log, too little for a checkpoint


@pytest.fixture
def disk(tmp_path):
    """An empty file system of 12 MB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs (root has it): {tried.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, free: int):
    """A file that leaves so many bytes of a file system free."""
    path = folder / "of_somebody_else"
    with path.open("wb") as file, pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    os.truncate(path, path.stat().st_size - free)
    return path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tensorstore answers a loop that orbax has closed
@pytest.mark.parametrize(
    ("free", "told"),
    [
        (FREE_FOR_LINES, "checkpoint of step 20 could not be written .*; step 10 is the last that is there, and whole: make room"),
        (0, "(could not|cannot) be written .*No space left on device.*the same command goes on"),  # of whichever file comes first
    ],
)
def test_a_disk_that_fills_ends_the_run_in_words_and_it_goes_on_when_there_is_room(disk, tmp_path, free, told):
    run, filler = disk / "run", []

    def at(number):
        if number == 12:  # the disk fills after step 10 has been saved
            while not (checkpoint.folder(run) / "10").exists():
                pass
            filler.append(fill(disk, free))

    with pytest.raises((checkpoint.CheckpointError, OSError), match=told):
        go(run, at=at, width=WIDTH)
    assert [path.name for path in checkpoint.folder(run).iterdir()] == ["10"]
    assert checkpoint.load_params(run).step == 10  # verified
    with pytest.raises((checkpoint.CheckpointError, OSError), match="(could not|cannot) be written .*No space left on device"):
        go(run, width=WIDTH)  # there is still no room
    assert [path.name for path in checkpoint.folder(run).iterdir()] == ["10"] and not list(run.glob("*.tmp"))
    filler[0].unlink()
    state, steps = go(run, width=WIDTH)
    assert steps == list(range(11, STEPS + 1))
    straight = go(tmp_path / "straight", width=WIDTH)[0]
    np.testing.assert_array_equal(state.params["policy"]["w"], straight.params["policy"]["w"])
    assert training.read_metrics(run) and [line["step"] for line in training.read_metrics(run)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("write", [training.write_text, training.add_line])
def test_a_file_of_a_run_that_cannot_be_written_is_named_and_nothing_half_written_is_left(tmp_path, write):
    """A limit of the operating system in place of a disk's size."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("before\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"metrics.jsonl cannot be written \(.*\); make room .*the same command goes on") as told:
            write(path, "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.errno == errno.EFBIG and list(tmp_path.iterdir()) == [path]
    assert path.read_text().startswith("before\n")
    assert (path.read_text() == "before\n") == (write is training.write_text)
