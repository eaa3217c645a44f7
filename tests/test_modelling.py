"""The model benchmark: what is asked of a process, what follows from its figures, and what bad arguments are told."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import flops
from experiments.benchmark import __main__ as command
from experiments.benchmark import model, modelling, trace
from experiments.benchmark.case import Case, read_case


def test_a_case_goes_through_json_with_all_its_overrides():
    args = command.parse(["model", "--dtype", "bfloat16", "--remat", "--implementation", "xla", "--override", "policy.encoder.depth=4"])
    case = read_case(json.dumps(model.make_case(args, "S/16")))
    assert case.changes == (("*.dtype", "bfloat16"), ("*.remat", True), ("*.implementation", "xla"), ("policy.encoder.depth", 4))
    assert (case.preset, case.batch, case.records, case.repeats) == ("S/16", model.BATCHES["S/16"], "states", 5)
    assert hash(case) and Case("debug").changes == (("*.dtype", "float32"), ("*.remat", False))


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--repeats", "0"], "give 1 or more repeats"),
        (["--devices", "0"], "give 1 or more repeats, examples and devices"),
        (["--compile-only", "--ratio-to-stored"], "--compile-only runs nothing"),
        (["--agree-steps", "40"], "--agree-steps needs --data"),
        (["--override", "draws"], "'draws'; expected PATH=VALUE"),
        (["--override", "draws=two"], "'draws=two'; expected PATH=VALUE"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_run(arguments, told, capsys, monkeypatch):
    monkeypatch.setattr(model, "run", None)
    assert command.main(["model", *arguments]) == 1
    assert told in capsys.readouterr().err


def test_a_profile_needs_a_folder(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert command.main(["model", "--profile", str(file)]) == 1
    assert "file is a file; name a folder" in capsys.readouterr().err


def test_a_process_that_fails_or_takes_too_long_is_told(capsys):
    assert command.main(["model", "--presets", "debug", "--limit-s", "0.01"]) == 0
    assert "debug: not done after 0.01 s" in capsys.readouterr().err
    failed = model.run("agree", {"preset": "debug", "data": ["nowhere"], "agree_steps": 20}, 100)["failed"]
    assert "nowhere holds no finished data set" in failed


def test_the_line_of_a_fit_says_which_batches_fit():
    """A gibibyte fixed and a quarter a sample: 16 GiB less a tenth hold 53."""
    gib = model.GIB
    parts = {"state_bytes": 4, "gradient_bytes": 1}
    measured = [{"compiler": gib + b * gib // 4, "trace": 2 * gib + b * gib, **parts} for b in model.FIT_BATCHES]
    found = model.fitted(measured)
    assert found["compiler"]["fits"] == {"16": 53, "40": 140, "80": 284} and found["compiler"]["error_at_third"] == pytest.approx(0)
    assert found["trace"]["fits"] == {"16": 12, "40": 34, "80": 70}
    measured[2]["compiler"] *= 2
    assert model.fitted(measured)["compiler"]["error_at_third"] == pytest.approx(-0.5)
    measured[0]["trace"] = 900 * gib  # fixed alone is too much
    measured[1]["trace"] = 901 * gib
    assert set(model.fitted(measured)["trace"]["fits"].values()) == {0}
    assert model.fitted([*measured[:2], {"failed": "why"}]) == {"failed": "why"}
    failed = {"preset": "B/16", "dtype": "x", "remat": True, "failed": "why"}
    rows = [{"preset": "S/16", "dtype": "float32", "remat": False} | found, failed]
    assert "| S/16 | float32 | no | 1.00 + 0.250 | 53 / 140 / 284 | 2.00 + 1.000 | 12 / 34 / 70 |" in model.table(rows)
    assert model.table(rows).splitlines()[-1] == "| B/16 | x | yes | why |"


def test_utilisation_is_the_hand_count_over_the_peak(monkeypatch):
    found = {"hand": {"train": 1e12}, "train_step": {"median_ms": 500.0}}
    case = Case("S/16", batch=100, dtype="bfloat16")
    assert modelling.utilisation(case, found, 1)["mfu"] is None
    assert "no peak is known for 'cpu'; --peak-tflops" in modelling.utilisation(case, found, 1)["mfu_note"]
    assert modelling.utilisation(case._replace(peak_tflops=400.0), found, 2)["mfu"] == pytest.approx(200 / 800)
    device = types.SimpleNamespace(device_kind="NVIDIA H200")
    monkeypatch.setattr(modelling.jax, "devices", lambda: [device])
    assert modelling.utilisation(case, found, 1)["mfu"] == pytest.approx(200 / 989)
    assert modelling.utilisation(case._replace(dtype="float32"), found, 1)["mfu"] == pytest.approx(200 / 494)


def test_kinds_of_device_are_told_apart():
    kinds = {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA A100-SXM4-80GB": 312, "TPU v5 lite": 197, "TPU v5p": 459}
    assert {kind: flops.peak_tflops(kind, "bfloat16") for kind in kinds} == kinds
    assert flops.peak_tflops("NVIDIA L40S", "bfloat16") is None and flops.peak_tflops("cpu", "float32") is None


def test_memory_counts_a_donated_argument_once():
    x = jnp.zeros(1000, jnp.float32)
    plain, donated = (jax.jit(lambda x: x + 1, donate_argnums=d).lower(x).compile() for d in ((), (0,)))
    assert modelling.memory(plain)["total_bytes"] - modelling.memory(donated)["total_bytes"] == 4000
    assert modelling.size_bytes({"a": x, "key": jax.random.key(0), "b": x.astype(jnp.bfloat16)}) == 6000


def test_calls_take_turns_and_the_first_round_does_not_count():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = modelling.in_turns(calls, 2)
    assert order == list("ababab") and [len(values) for values in times.values()] == [2, 2]


def test_a_trace_names_what_takes_long(tmp_path):
    x = np.ones((600, 600), np.float32)
    work = jax.jit(lambda x: jnp.sort(x, axis=0) + 1)
    jax.block_until_ready(work(x))
    with jax.profiler.trace(str(tmp_path)):
        jax.block_until_ready(work(x))
    shares = trace.largest_shares(tmp_path, 3)
    assert "sort" in shares[0]["kind"] and 0.5 < shares[0]["share"] <= 1
    with pytest.raises(ValueError, match="holds no trace"):
        trace.largest_shares(tmp_path / "plugins", 3)


def test_what_is_kept_for_the_backward_pass_is_counted_once_and_in_its_own_type():
    """Of exp(x w) its result is kept, and x, which is at hand; of a bfloat16 product the copy of x too."""
    w, x = jnp.zeros((30, 50)), jnp.zeros((20, 30))
    assert modelling.kept_bytes(lambda w, x: jnp.exp(x @ w).sum(), w, x) == 4 * (20 * 50 + 20 * 30)

    def rounded(w, x):
        half = x.astype(jnp.bfloat16)
        return jnp.exp(half @ w.astype(jnp.bfloat16)).sum()

    assert modelling.kept_bytes(rounded, w, x) == 2 * (20 * 50 + 20 * 30) + 4 * 20 * 30
