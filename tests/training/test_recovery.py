import json
import logging
import resource

import pytest
import torch

from llm_engineering.errors import TrainingError
from llm_engineering.training.recovery import MANIFEST, is_finished, is_whole, last_checkpoint, seal, step_of, writing


def write_checkpoint(work_dir, step, sealed=True):
    folder = work_dir / f"checkpoint-{step}"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(range(64)))
    (folder / "deep" / "rng").write_text("state")
    if sealed:
        seal(folder)
    return folder


def test_newest_checkpoint_by_number_is_used(tmp_path):
    for step in (9, 10, 100):
        write_checkpoint(tmp_path, step)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert step_of(tmp_path / "checkpoint-100") == 100


def test_work_folder_without_checkpoints_gives_none(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "missing") is None
    assert (tmp_path / "checkpoint-best").is_dir()


def tear_by_truncation(folder):
    (folder / "weights").write_bytes(bytes(range(63)))


def tear_by_a_flipped_bit(folder):
    (folder / "weights").write_bytes(bytes([1, *range(1, 64)]))


def tear_by_a_missing_file(folder):
    (folder / "deep" / "rng").unlink()


def tear_by_another_file(folder):
    (folder / "more").write_text("")


def tear_by_a_renamed_file(folder):
    (folder / "weights").rename(folder / "weight")


def tear_by_a_missing_manifest(folder):
    (folder / MANIFEST).unlink()


def tear_by_an_empty_manifest(folder):
    (folder / MANIFEST).write_text("")


def tear_by_half_a_manifest(folder):
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:30])


def tear_by_a_binary_manifest(folder):
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00")


def tear_by_a_foreign_manifest(folder):
    (folder / MANIFEST).write_text('["sha256"]')


TEARS = [value for name, value in list(globals().items()) if name.startswith("tear_by")]


@pytest.mark.parametrize("tear", TEARS, ids=lambda tear: tear.__name__)
def test_torn_checkpoint_is_removed_and_the_one_before_used(tear, tmp_path, caplog):
    before, torn = write_checkpoint(tmp_path, 50), write_checkpoint(tmp_path, 100)
    assert is_whole(torn)
    tear(torn)
    assert not is_whole(torn)
    with caplog.at_level(logging.WARNING):
        assert last_checkpoint(tmp_path) == before
    assert caplog.messages == ["Checkpoint checkpoint-100 was cut off while it was written; the one before it is used."]
    assert not torn.exists()


def test_all_checkpoints_torn_gives_none(tmp_path):
    for step in (50, 100):
        write_checkpoint(tmp_path, step, sealed=False)
    assert last_checkpoint(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stopped", [True, False])
def test_end_of_training_is_read_from_the_checkpoint(stopped, tmp_path):
    state = {"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": stopped}}}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    assert is_finished(tmp_path) is stopped


def test_file_that_torch_cannot_write_is_no_space_and_its_folder_is_removed(tmp_path):
    # the optimizer's state goes this way: 100 kB where a file may have 50
    folder = write_checkpoint(tmp_path, 50, sealed=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with (
            pytest.raises(
                TrainingError, match=r"checkpoint-50 cannot be written: PyTorch could not write a file\. Free"
            ),
            writing(folder),
        ):
            torch.save(torch.zeros(25_000), folder / "optimizer.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not folder.exists()


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("columns"), TrainingError("nan")])
def test_other_mistakes_while_writing_are_not_called_a_full_disk(error, tmp_path):
    folder = write_checkpoint(tmp_path, 50)
    with pytest.raises(type(error), match=str(error)), writing(folder):
        raise error
    assert folder.exists()
