"""Runs as the server tells of them; the client that asks it is the only stand-in here."""

import errno
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import requests
from zenml.enums import ExecutionStatus

from llm_engineering.errors import DataError, SpaceError, StoppedFollowing, TrainingError, no_space
from pipelines.launching import follow as following
from pipelines.launching.follow import failure_of, follow
from pipelines.launching.step_facts import StepFact, fact_of


def step(name: str, status: ExecutionStatus, **facts: Any) -> SimpleNamespace:
    times = {"start_time": None, "end_time": None, "exception_info": None}
    return SimpleNamespace(id=uuid4(), name=name, status=status, **{**times, **facts})


def run(status: ExecutionStatus, *steps: SimpleNamespace) -> Any:
    return SimpleNamespace(id=uuid4(), name="mine", status=status, steps={each.name: each for each in steps})


class Server:
    """Answers with one state of the run after the other."""

    def __init__(self, *states: Any) -> None:
        self.states = list(states)

    def get_pipeline_run(self, run_id: object) -> Any:
        state = self.states.pop(0)
        if isinstance(state, BaseException):
            raise state
        return state


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(following, "get_run_url", lambda run: "http://server/runs/1")

    def answer(*states: Any) -> None:
        server = Server(*states)
        monkeypatch.setattr(following, "Client", lambda: server)

    return answer


def test_a_run_is_followed_to_its_end_and_every_step_is_told_once(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    begun, done = step("train_sft", ExecutionStatus.RUNNING), step("load_datasets", ExecutionStatus.CACHED)
    serve(
        run(ExecutionStatus.RUNNING, done, begun),
        run(ExecutionStatus.RUNNING, done, begun),
        run(ExecutionStatus.COMPLETED, done, begun),
    )
    assert follow(uuid4(), seconds=0).status == ExecutionStatus.COMPLETED
    told = {fact for fact in map(fact_of, caplog.records) if fact is not None}
    assert told == {StepFact("train_sft", "begun"), StepFact("load_datasets", "cached")}
    assert len(caplog.records) == len(told)


def test_a_failed_step_ends_the_command_with_its_own_sentence_and_exit_code(serve: Any) -> None:
    raised = SimpleNamespace(source="llm_engineering.errors.DataError", message="rows.jsonl is empty.")
    serve(run(ExecutionStatus.FAILED, step("load_datasets", ExecutionStatus.FAILED, exception_info=raised)))
    with pytest.raises(DataError, match=r"^rows.jsonl is empty\.$"):
        follow(uuid4())


def test_a_disk_that_was_full_elsewhere_is_said_in_the_same_words(serve: Any) -> None:
    serve()
    full = no_space(OSError(errno.ENOSPC, "No space left on device"))
    raised = SimpleNamespace(source="llm_engineering.errors.SpaceError", message=str(full))
    error = failure_of(run(ExecutionStatus.FAILED, step("train_sft", ExecutionStatus.FAILED, exception_info=raised)))
    assert isinstance(error, SpaceError)
    assert str(error) == "No space is left on the disk. Free some and start again: finished work is kept."


def test_a_step_that_left_no_word_is_named(serve: Any) -> None:
    serve()
    error = failure_of(run(ExecutionStatus.FAILED, step("train_sft", ExecutionStatus.FAILED)))
    assert isinstance(error, TrainingError)
    assert str(error) == (
        "The step train_sft failed and left no word, as a killed machine does. Its log is at http://server/runs/1."
    )


@pytest.mark.parametrize("end", [KeyboardInterrupt(), requests.exceptions.ConnectionError()])
def test_a_run_goes_on_when_nobody_watches_it_any_more(serve: Any, end: BaseException) -> None:
    serve(run(ExecutionStatus.RUNNING), end)
    with pytest.raises(StoppedFollowing, match=r"The run mine goes on\. See it at http://server/runs/1") as caught:
        follow(uuid4(), seconds=0)
    assert caught.value.exit_code == 130
