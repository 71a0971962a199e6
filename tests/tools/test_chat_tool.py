import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from transformers.utils import logging

from llm_engineering.models.streaming import Sampling
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.scoring.conversation import open_conversation
from tools import chat

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    logging.disable_progress_bar()  # as the environment does where transformers is not imported yet

    def invoke(*arguments: str, stdin: str = "") -> Result:
        before = signal.getsignal(signal.SIGTERM)
        result = CliRunner().invoke(chat.main, ["--max-new-tokens", "6", *arguments], input=stdin)
        signal.signal(signal.SIGTERM, before)
        return result

    yield invoke
    logging.enable_progress_bar()


def answers(checkpoint: Checkpoint, *questions: str) -> list[str]:
    """Return the greedy answers in one conversation, as a terminal gets them."""
    from threading import Event

    from llm_engineering.plain_text import plain

    conversation = open_conversation("x", checkpoint)
    for question in questions:
        list(conversation.ask(question, Sampling(max_new_tokens=6), Event()))
    return [plain(message["content"]) for message in conversation.messages if message["role"] == "assistant"]


def test_one_prompt_gives_one_answer(run: Run, model_checkpoints: Callable[[str], Checkpoint]) -> None:
    model = model_checkpoints("qwen2")
    done = run(str(model.path), "--prompt", "Name a town.")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{answers(model, 'Name a town.')[0]}\n"


def test_every_line_of_a_pipe_is_a_turn_and_the_end_of_it_the_end(
    run: Run, model_checkpoints: Callable[[str], Checkpoint]
) -> None:
    model = model_checkpoints("qwen2")
    done = run(str(model.path), stdin="Name a town.\n\nWhere is it?\n")
    assert done.exit_code == 0
    assert done.stdout == "".join(f"{answer}\n" for answer in answers(model, "Name a town.", "Where is it?"))


def said(done: Result) -> str:
    """Return the error, however it was broken into lines."""
    return " ".join(done.stderr.split())


def test_models_answer_side_by_side_each_with_its_own_history(
    run: Run, model_checkpoints: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    qwen2, gpt_neox = (str(model_checkpoints(family).path) for family in ("qwen2", "gpt_neox"))
    done = run(qwen2, gpt_neox, stdin=f"Name a town.\n/save {tmp_path / 'talk.jsonl'}\n/quit\nnot asked\n")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{qwen2}: ")
    assert f"\n{gpt_neox}: " in done.stdout
    saved = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert [each["model"] for each in saved] == [qwen2, gpt_neox]
    assert [len(each["messages"]) for each in saved] == [2, 2]


def test_text_that_is_not_utf_8_costs_a_sentence(run: Run, model_checkpoints: Callable[[str], Checkpoint]) -> None:
    done = run(str(model_checkpoints("qwen2").path), "--prompt", "Name a \udcff town.")
    assert done.exit_code == 2
    assert said(done) == "Error: What was asked is not UTF-8. Save it as UTF-8, and ask again."


def test_an_empty_prompt_is_refused(run: Run) -> None:
    done = run("embedded", "--prompt", " ")
    assert done.exit_code == 2
    assert said(done) == "Error: --prompt is empty: say what to ask."


def test_commands_begin_anew_and_set_the_system_prompt(
    run: Run, model_checkpoints: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    def saved() -> list[dict[str, str]]:
        messages: list[dict[str, str]] = json.loads((tmp_path / "talk.jsonl").read_text())["messages"]
        return messages

    model, save = str(model_checkpoints("llama").path), f"/save {tmp_path / 'talk.jsonl'}\n"
    run(model, "--system", "Be brief.", stdin=f"Name a town.\n/reset\n{save}")
    assert saved() == [{"role": "system", "content": "Be brief."}]
    run(model, stdin=f"Name a town.\n/system Be kind.\nName a town.\n{save}")
    assert [message["content"] for message in saved()[:2]] == ["Be kind.", "Name a town."]
    run(model, "--system", "Be brief.", stdin=f"/system\n{save}")
    assert saved() == []
    assert "/save FILE" in run(model, stdin="/help\n").stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sead 3", "There is no command /sead. /help lists those that there are."),
        ("/seed x", "/seed takes a whole number, not 'x'."),
        ("/save", "/save takes the name of a file."),
        ("/save /nowhere/x", "/nowhere/x cannot be written: No such file or directory. Name another file."),
    ],
)
def test_a_wrong_command_ends_a_pipe_with_one_sentence(
    line: str, message: str, run: Run, model_checkpoints: Callable[[str], Checkpoint]
) -> None:
    done = run(str(model_checkpoints("llama").path), stdin=f"{line}\nnot asked\n")
    assert (done.exit_code, done.stdout, said(done)) == (2, "", f"Error: {message}")


def test_a_conversation_that_is_too_long_is_refused(run: Run, model_checkpoints: Callable[[str], Checkpoint]) -> None:
    done = run(str(model_checkpoints("llama").path), "--prompt", "a" * 300)
    assert done.exit_code == 2
    assert "no answer fits. Begin a new one, or say less." in said(done)


def test_a_folder_that_is_no_model_is_refused(run: Run, tmp_path: Path) -> None:
    done = run(str(tmp_path), "--prompt", "Hello")
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: model.base ")
    assert "has no config.json" in said(done)


def test_other_addresses_than_this_machine_s_need_a_flag(
    run: Run, model_checkpoints: Callable[[str], Checkpoint]
) -> None:
    done = run(str(model_checkpoints("llama").path), "--serve", "--host", "0.0.0.0")
    assert done.exit_code == 2
    assert "there is no authentication. Add --expose if that is meant." in said(done)


def test_several_models_are_not_served_at_once(run: Run, model_checkpoints: Callable[[str], Checkpoint]) -> None:
    done = run(*(str(model_checkpoints(family).path) for family in ("llama", "qwen2")), "--serve")
    assert (done.exit_code, done.stderr) == (
        2,
        "Error: --serve takes one model. Start it once for each, on ports of their own.\n",
    )


def test_what_could_harm_a_terminal_is_not_shown(
    run: Run, model_checkpoints: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_engineering.scoring import conversation

    told = ["  ", "[red]", "\x1b[31mno", " \r\n\n", "yes  ", "\n"]
    monkeypatch.setattr(conversation, "stream_answer", lambda *_: iter(told))
    done = run(str(model_checkpoints("llama").path), "--prompt", "Hello")
    assert done.stdout == "[red]\N{REPLACEMENT CHARACTER}[31mno \N{REPLACEMENT CHARACTER}\n\nyes\n"


def test_the_first_interrupt_stops_the_answer_and_the_second_ends_the_chat() -> None:
    with chat._stoppable() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
