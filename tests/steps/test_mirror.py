"""The mirror against a folder that plays the bucket: ZenML copies to it by the same calls as to any store."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_engineering.training.recovery import MANIFEST, is_whole, last_checkpoint, seal
from steps.runtime import resumable as module
from steps.runtime.resumable import Mirror, mirrored


def write_checkpoint(work: Path, step: int) -> Path:
    checkpoint = work / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights.bin").write_bytes(bytes([step]) * 1000)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return checkpoint


def write_sealed(work: Path, step: int) -> Path:
    checkpoint = write_checkpoint(work, step)
    seal(checkpoint)
    return checkpoint


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # polling what another thread copies


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


def test_a_sealed_checkpoint_is_copied_while_the_training_goes_on(work: Path, bucket: Path) -> None:
    with mirrored(work, str(bucket), seconds=0.01):
        write_sealed(work, 4)
        wait_until(lambda: (bucket / "checkpoint-4" / MANIFEST).is_file())
        assert is_whole(bucket / "checkpoint-4")


def test_the_last_checkpoint_is_copied_though_the_training_failed_at_once(work: Path, bucket: Path) -> None:
    def fail() -> None:
        with mirrored(work, str(bucket), seconds=3600):
            write_sealed(work, 4)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert is_whole(bucket / "checkpoint-4")


def test_a_checkpoint_that_is_not_sealed_yet_stays_here(work: Path, bucket: Path) -> None:
    write_checkpoint(work, 4)
    Mirror(work, str(bucket)).copy()
    assert not (bucket / "checkpoint-4").exists()


def test_as_many_are_kept_there_as_here(work: Path, bucket: Path) -> None:
    mirror = Mirror(work, str(bucket))
    for step in (4, 8):
        write_sealed(work, step)
    mirror.copy()
    for path in sorted((work / "checkpoint-4").iterdir()):
        path.unlink()
    (work / "checkpoint-4").rmdir()
    write_sealed(work, 12)
    mirror.copy()
    assert sorted(path.name for path in bucket.iterdir()) == ["checkpoint-12", "checkpoint-8"]


def test_another_machine_goes_on_from_the_newest_whole_checkpoint(work: Path, bucket: Path, tmp_path: Path) -> None:
    for step in (4, 8, 12):
        write_sealed(work, step)
    (work / "experiment").write_text("key")
    write_sealed(work / "with-nll", 2)
    Mirror(work, str(bucket)).copy()
    (bucket / "checkpoint-12" / MANIFEST).unlink()  # the upload was cut off
    (bucket / "checkpoint-8" / "weights.bin").write_bytes(b"damaged")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Mirror(elsewhere, str(bucket)).fetch()
    assert last_checkpoint(elsewhere) == elsewhere / "checkpoint-4"
    assert last_checkpoint(elsewhere / "with-nll") == elsewhere / "with-nll" / "checkpoint-2"
    assert (elsewhere / "experiment").read_text() == "key"


def test_what_is_here_and_newer_stays(work: Path, bucket: Path, tmp_path: Path) -> None:
    write_sealed(work, 4)
    Mirror(work, str(bucket)).copy()
    same_disk = tmp_path / "same-disk"
    write_sealed(same_disk, 8)
    Mirror(same_disk, str(bucket)).fetch()
    assert sorted(path.name for path in same_disk.iterdir()) == ["checkpoint-8"]


def test_a_file_that_changes_is_copied_again(work: Path, bucket: Path) -> None:
    mirror = Mirror(work, str(bucket))
    for text in ("one", "one, two"):
        (work / "samples.json").write_text(text)
        mirror.copy()
        assert (bucket / "samples.json").read_text() == text


def test_a_store_that_fails_is_said_once_and_ends_no_training(
    work: Path, bucket: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mirror, upload = Mirror(work, str(bucket)), module.upload
    write_sealed(work, 4)

    def refuse(*given: object, **how: object) -> None:
        raise ConnectionError("the bucket is gone")

    with caplog.at_level(logging.INFO):
        monkeypatch.setattr(module, "upload", refuse)
        assert [mirror.try_to_copy() for _ in range(3)] == [False, False, False]
        monkeypatch.setattr(module, "upload", upload)
        assert mirror.try_to_copy()
    said = [record.getMessage() for record in caplog.records]
    assert [sentence.partition(":")[0] for sentence in said] == [
        f"Checkpoints cannot be copied to {bucket} now",
        f"Checkpoints are copied to {bucket} again.",
    ]
    assert is_whole(bucket / "checkpoint-4")
