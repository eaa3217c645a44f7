"""Statistics: against numpy over all rows, the check against the table, and a form that travels."""

import numpy as np
import pytest
import synthetic

from clamp_jax.data import stats
from clamp_jax.data.folders import Reader
from clamp_jax.geometry.aloha import WORKING_RANGE


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stats")
    return [
        Reader(synthetic.write(folder / "a", 3, steps=200)),
        Reader(synthetic.write(folder / "b", 2, kind="image", task="other", first_seed=3)),
    ]


def test_one_pass_equals_numpy_over_all_rows(readers):
    found = stats.compute(readers)
    for name in ("actions", "joints"):
        rows = np.concatenate([getattr(reader[i], name) for reader in readers for i in range(len(reader))]).astype(np.float64)
        columns, width = getattr(found, name), WORKING_RANGE[:, 1] - WORKING_RANGE[:, 0]
        for field, expected in (("minimum", rows.min(0)), ("maximum", rows.max(0)), ("mean", rows.mean(0)), ("std", rows.std(0))):
            np.testing.assert_allclose(getattr(columns, field), expected, rtol=2e-6, atol=1e-7, err_msg=field)
        for field, fraction in (("q01", 0.01), ("q99", 0.99)):
            expected = np.quantile(rows, fraction, axis=0, method="inverted_cdf")
            assert np.all(np.abs(np.array(getattr(columns, field)) - expected) <= 1e-4 * width), field
    assert (found.episodes, found.frames) == (5, 200 + 201 + 202 + 60 + 61)


def test_images_are_not_read(readers, monkeypatch):
    whole = stats.compute(readers)
    monkeypatch.setattr(Reader, "frame", None)
    assert stats.compute(readers) == whole


def test_constant_rows_have_no_spread(readers):
    stream = stats._Stream(WORKING_RANGE)
    for _ in range(3):
        stream.add(np.full((100, 14), 0.7, np.float32))
    columns = stream.columns()
    np.testing.assert_allclose(columns.std, 0, atol=1e-7)
    np.testing.assert_allclose([columns.mean, columns.q01, columns.q99, columns.minimum], np.float32(0.7), rtol=1e-6)


def test_the_fingerprint_travels_and_tells_data_apart(readers):
    found = stats.compute(readers)
    again = stats.from_json(stats.to_json(found))
    assert again == found and again.fingerprint == found.fingerprint == stats.compute(readers).fingerprint
    assert stats.compute(readers[:1]).fingerprint != found.fingerprint
    assert found._replace(frames=1).fingerprint != found.fingerprint
    for text in ("[]", "{}", "no json", stats.to_json(found).replace("q99", "q98")):
        with pytest.raises(ValueError, match="no statistics of this project"):
            stats.from_json(text)


def test_the_check_names_joint_value_and_range(readers):
    found = stats.compute(readers)
    stats.check(found)
    degrees = list(found.actions.maximum)
    degrees[8], degrees[13] = 71.5, 1.1  # a shoulder in degrees; a gripper a little beyond open is as it should be
    bad = found._replace(actions=found.actions._replace(maximum=tuple(degrees)))
    with pytest.raises(ValueError, match=r"actions of right/shoulder: 71.5, working range -1.85 to 1.25") as error:
        stats.check(bad)
    assert "gripper:" not in str(error.value) and "order of joints" in str(error.value)
    with pytest.raises(ValueError, match="no data set"):
        stats.compute([])
