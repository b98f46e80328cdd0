from pathlib import Path

from tag2mask.engine.logs import TrainingLog, read_log


def test_lines_that_will_come_again_are_dropped(tmp_path: Path) -> None:
    with TrainingLog(tmp_path) as log:
        for step in (10, 20, 30):
            log.write(step, loss=1 / step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 30]
    with TrainingLog(tmp_path, step=20) as log:
        log.write(30, loss=0.5)
    assert read_log(tmp_path)[-1] == {"step": 30, "loss": 0.5}
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 30]
    assert list((tmp_path / "tensorboard").iterdir())


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert read_log(tmp_path / "nowhere") == []
