"""Long work tells at once how far it has come, and logs it not at every batch, with the time left where it is known."""

import pytest

from llm_engineering import progress
from llm_engineering.progress import Progress, Work, listening


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_a_line_names_rows_speed_and_time_left(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    work = Work("tokenised", 100_000)
    clock[0] += 1
    work(1000)  # too early for a line
    clock[0] += 9
    work(19_000)
    # 20,000 rows in 10 s are 2,000 a second; the 80,000 others take 40 s
    assert caplog.messages == ["tokenised 20,000/100,000 rows · 2,000 rows/s · 40 s left"]


def test_where_the_number_of_rows_is_unknown_no_time_is_said(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    work = Work("chats.jsonl: read")
    clock[0] += 6
    work(1200)
    assert caplog.messages == ["chats.jsonl: read 1,200 rows · 200 rows/s"]


def test_who_listens_hears_every_batch_and_the_end_also_where_work_breaks_off(clock: list[float]) -> None:
    heard: list[Progress] = []

    def half_the_work() -> None:
        with Work("generated", 10, "answers") as work:
            clock[0] += 2
            work(4)
            raise OSError

    with listening(heard.append), pytest.raises(OSError):  # noqa: PT011
        half_the_work()
    assert [(each.done, each.seconds_left, each.ended) for each in heard] == [
        (0, None, False),
        (4, 3.0, False),  # 2 a second, 6 are left
        (4, None, True),
    ]
    Work("generated", 10, "answers")(1)
    assert len(heard) == 3  # nobody listens any more
