import json
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from llm_engineering.config.data import FileSource
from llm_engineering.data.formats import Conversation as Example
from llm_engineering.data.formats import choose_format
from llm_engineering.errors import StoreError
from llm_engineering.models.streaming import Sampling
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.scoring.conversation import Conversation, open_conversation, save_conversations

BRIEF = Sampling(max_new_tokens=6)


@pytest.fixture
def conversation(model_checkpoints: Callable[[str], Checkpoint]) -> Conversation:
    return open_conversation("tiny", model_checkpoints("llama"))


def test_questions_and_answers_are_the_history_of_the_next_answer(conversation: Conversation) -> None:
    first = "".join(conversation.ask("Name a town.", BRIEF, Event()))
    alone = "".join(open_conversation_like(conversation).ask("Where is it?", BRIEF, Event()))
    second = "".join(conversation.ask("Where is it?", BRIEF, Event()))
    assert conversation.messages == [
        {"role": "user", "content": "Name a town."},
        {"role": "assistant", "content": first.strip()},
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": second.strip()},
    ]
    assert second != alone


def open_conversation_like(conversation: Conversation) -> Conversation:
    return Conversation(conversation.name, conversation.model, conversation.tokenizer)


def test_a_system_prompt_comes_first_and_a_new_beginning_forgets_the_rest(conversation: Conversation) -> None:
    conversation.begin("Be brief.")
    list(conversation.ask("Name a town.", BRIEF, Event()))
    assert [message["role"] for message in conversation.messages] == ["system", "user", "assistant"]
    conversation.begin(None)
    assert (conversation.messages, conversation.turns) == ([], 0)


def test_each_turn_draws_anew_and_a_whole_conversation_can_be_drawn_again(conversation: Conversation) -> None:
    sampling = Sampling(temperature=1.5, max_new_tokens=12, seed=3)
    drawn = []
    for _ in range(2):
        conversation.begin(None)
        drawn.append(["".join(conversation.ask("Name a town.", sampling, Event())) for _ in range(3)])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3


def test_saved_conversations_are_rows_that_can_be_trained_on(conversation: Conversation, tmp_path: Path) -> None:
    list(conversation.ask("Name a town.", BRIEF, Event()))
    save_conversations([conversation, conversation], tmp_path / "talk.jsonl")
    first, second = (json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines())
    assert first == second == {"model": "tiny", "messages": conversation.messages}
    reading = choose_format(FileSource(path="talk.jsonl"), "sft", set(first), [first])
    [example] = reading.read(first)
    assert isinstance(example, Example)
    assert example.messages == conversation.messages


def test_a_file_that_cannot_be_written_is_named(conversation: Conversation, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"talk\.jsonl cannot be written: No such file"):
        save_conversations([conversation], tmp_path / "nowhere" / "talk.jsonl")
