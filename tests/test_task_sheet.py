"""The five real tasks: what their configs promise, and the marks of their sheets."""

import numpy as np
import pytest

from clamp_jax.geometry import aloha
from data_tools import task_sheet
from experiments.configs import real


@pytest.mark.parametrize("name", real.TASKS)
def test_every_mark_is_in_its_range_on_the_table_and_clear_of_the_others(name):
    task = real.get_config(name)
    for trial in range(task.demonstrations):
        found = task_sheet.marks(task, trial)
        boxes = [task_sheet.corners(mark, thing.size_m) for mark, thing in zip(found, task.objects, strict=True)]
        for mark, thing in zip(found, task.objects, strict=True):
            assert thing.x_m[0] <= mark.x_m <= thing.x_m[1] and thing.y_m[0] <= mark.y_m <= thing.y_m[1]
            assert abs(mark.yaw_deg) <= np.ceil(thing.yaw_deg) and mark.name == thing.name
            assert np.all(np.abs([mark.x_m, mark.y_m]) < aloha.TABLE_HALF_SIZE)
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                assert nearest(one, other) >= task_sheet.CLEAR_M - 1e-9


def nearest(one, other, steps=60):
    """Distance of two outlines by points spread along their edges: an upper bound, close to the distance of convex outlines apart."""
    share = np.linspace(0, 1, steps)[:, None, None]
    a, b = ((outline + share * (np.roll(outline, -1, axis=0) - outline)).reshape(-1, 2) for outline in (one, other))
    return np.linalg.norm(a[:, None] - b[None], axis=-1).min()


def test_gap_is_the_distance_of_facing_boxes_and_negative_when_they_overlap():
    one = task_sheet.corners(task_sheet.Mark("a", 0.0, 0.0, 0.0), (0.2, 0.1, 0.1))
    for x, expected in ((0.3, 0.1), (0.25, 0.05), (0.15, -0.05)):
        other = task_sheet.corners(task_sheet.Mark("b", x, 0.02, 0.0), (0.2, 0.1, 0.1))
        assert task_sheet.gap(one, other) == pytest.approx(expected, abs=1e-12)


def test_a_turn_of_the_table_turns_the_outline():
    square = task_sheet.corners(task_sheet.Mark("a", 0.1, -0.05, 90.0), (0.2, 0.1, 0.1))
    np.testing.assert_allclose(np.ptp(square, axis=0), (0.1, 0.2), atol=1e-12)
    np.testing.assert_allclose(square.mean(0), (0.1, -0.05), atol=1e-12)


def test_marks_follow_from_seed_and_trial_alone():
    task = real.get_config("recycle_cans")
    assert task_sheet.marks(task, 7) == task_sheet.marks(task, 7)
    assert task_sheet.marks(task, 7) != task_sheet.marks(task, 8)
    assert task_sheet.marks(task, 7, seed=1) != task_sheet.marks(task, 7)


def test_things_that_cannot_be_apart_are_refused():
    task = real.get_config("mug_on_plate").copy_and_resolve_references()
    with task.unlocked():
        for thing in task.objects:
            thing.unlock()
            thing.x_m = thing.y_m = (0.0, 0.0)
    with pytest.raises(ValueError, match="widen their ranges"):
        task_sheet.marks(task, 0)


def test_the_sheets_are_written_and_an_unknown_task_is_named(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="sheets need the extra viz")
    assert task_sheet.main(["--task", "plate_on_rack", "--out", str(tmp_path)]) == 0
    content = (tmp_path / "plate_on_rack.pdf").read_bytes()
    assert content.startswith(b"%PDF") and b"/Count 2" in content
    assert [path.name for path in tmp_path.iterdir()] == ["plate_on_rack.pdf"]
    assert task_sheet.main(["--task", "plate_on_rak", "--out", str(tmp_path)]) == 1
    assert "plate_on_rak" in capsys.readouterr().err


def test_configs_are_locked_and_unknown_tasks_refused():
    config = real.get_config("open_drawers")
    with pytest.raises(AttributeError):
        config.horizon = 3
    with pytest.raises(ValueError, match="recycle_cans"):
        real.get_config("recycle")
