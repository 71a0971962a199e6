"""Long work says how far it has come: not at every batch, and with the time left where that is known."""

import pytest

from llm_engineering.data import progress
from llm_engineering.data.progress import RowProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_a_line_names_rows_speed_and_time_left(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    done = RowProgress("tokenised", 100_000)
    clock[0] += 1
    done(1000)  # too early for a line
    clock[0] += 9
    done(19_000)
    # 20,000 rows in 10 s are 2,000 a second; the 80,000 others take 40 s
    assert caplog.messages == ["tokenised 20,000/100,000 rows · 2,000 rows/s · 40 s left"]


def test_where_the_number_of_rows_is_unknown_no_time_is_said(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    done = RowProgress("chats.jsonl: read")
    clock[0] += 6
    done(1200)
    assert caplog.messages == ["chats.jsonl: read 1,200 rows · 200 rows/s"]
