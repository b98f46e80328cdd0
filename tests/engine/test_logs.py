from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tag2mask.engine.logs import TrainingLog, read_log
from tests.disks import fill, remount


def test_lines_that_will_come_again_are_dropped(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, loss=1 / step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 30]
    TrainingLog(tmp_path, step=20).write(30, loss=0.5)
    assert read_log(tmp_path)[-1] == {"step": 30, "loss": 0.5}
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 30]


def test_tensorboard_reads_the_same_figures(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, loss=1 / step, learning_rate=0.1)
    TrainingLog(tmp_path, step=20).write(30, loss=0.5)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning_rate"}
    assert [event.step for event in events.Scalars("loss")] == [10, 20, 30]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([0.1, 0.05, 0.5])


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert read_log(tmp_path / "nowhere") == []


def test_a_full_disk_is_told_with_the_file(small_disk: Path) -> None:
    log = TrainingLog(small_disk)
    filler = fill(small_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*(log\.jsonl|tfevents.*)'"):
        for step in range(1000):
            log.write(step, loss=1.0)
    filler.unlink()
    TrainingLog(small_disk, 3).write(4, loss=2.0)
    assert [line["step"] for line in read_log(small_disk)][-1] == 4


def test_a_disk_that_cannot_be_written(small_disk: Path) -> None:
    log = TrainingLog(small_disk)
    remount(small_disk, "ro")
    with pytest.raises(OSError, match=r"Read-only file system: '.*log\.jsonl'"):
        log.write(1, loss=1.0)
