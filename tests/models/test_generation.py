from collections.abc import Callable

import pytest
import torch

from llm_engineering.config.model import LoraAdapter
from llm_engineering.models.adapters import adapter_config
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.models.checkpoints import load_model
from llm_engineering.models.generation import Answer, end_tokens, generate_answers
from llm_engineering.reports.folders import Checkpoint

Checkpoints = Callable[[str], Checkpoint]
Chats = Callable[[str], ChatTokenizer]
# Ids of no special token; lengths 1 to 9, out of order, so that every batch is padded and sorted back.
PROMPTS = [[40, 41, 42, 43], [50], [60, 61, 62, 63, 64, 65, 66, 67, 68], [70, 71], [80, 81, 82, 83, 84, 85]]


def test_batched_greedy_answers_are_those_of_one_prompt_at_a_time(
    family: str, model_checkpoints: Checkpoints, chats: Chats
) -> None:
    model, tokenizer = load_model(model_checkpoints(family).path, torch.float32), chats(family).tokenizer
    together = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=4)
    apart = [generate_answers(model, tokenizer, [ids], max_new_tokens=12, batch_size=1)[0] for ids in PROMPTS]
    assert together == apart
    assert len({tuple(answer.token_ids) for answer in together}) > 1


def test_greedy_answer_takes_the_most_likely_token_each_time(model_checkpoints: Checkpoints, chats: Chats) -> None:
    model, tokenizer = load_model(model_checkpoints("qwen2").path, torch.float32), chats("qwen2").tokenizer
    ids = list(PROMPTS[0])
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert tokenizer.eos_token_id not in ids
    [answer] = generate_answers(model, tokenizer, PROMPTS[:1], max_new_tokens=5, batch_size=1)
    assert answer == Answer(tokenizer.decode(ids[4:]).strip(), ids[4:], finished=False)


def test_answer_ends_with_the_first_eos_while_the_batch_goes_on(model_checkpoints: Checkpoints, chats: Chats) -> None:
    model, tokenizer = load_model(model_checkpoints("gpt_neox").path, torch.float32), chats("gpt_neox").tokenizer
    free = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=10, batch_size=5, temperature=1.0)
    # the third token of one answer that is in no other answer becomes a second end token
    new_end, where = next(
        (token, place)
        for place, answer in enumerate(free)
        for token in answer.token_ids[2:3]
        if sum(token in other.token_ids for other in free) == 1 and token not in answer.token_ids[:2]
    )
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, new_end]
    stopped = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=10, batch_size=5, temperature=1.0)
    assert end_tokens(model, tokenizer) == [tokenizer.eos_token_id, new_end]
    for place, (before, after) in enumerate(zip(free, stopped, strict=True)):
        assert after.token_ids == (before.token_ids[:3] if place == where else before.token_ids)
    assert stopped[where].finished


def test_end_tokens_start_with_the_tokenizers_own_and_name_none_twice(
    model_checkpoints: Checkpoints, chats: Chats
) -> None:
    model, tokenizer = load_model(model_checkpoints("llama").path, torch.float32), chats("llama").tokenizer
    model.generation_config.eos_token_id = [7, 2, 7]
    assert tokenizer.eos_token_id == 2
    assert end_tokens(model, tokenizer) == [2, 7]
    model.generation_config.eos_token_id = None
    assert end_tokens(model, tokenizer) == [2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generating_leaves_random_state_mode_cache_and_generation_config_as_they_were(
    temperature: float, model_checkpoints: Checkpoints, chats: Chats
) -> None:
    model, tokenizer = load_model(model_checkpoints("llama").path, torch.float32), chats("llama").tokenizer
    model.train()
    model.config.use_cache = False
    own = model.generation_config
    torch.manual_seed(11)
    before = torch.get_rng_state()
    generate_answers(model, tokenizer, PROMPTS, max_new_tokens=3, batch_size=2, temperature=temperature, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert model.config.use_cache is False
    assert model.generation_config is own


def test_sampling_follows_its_seed_and_nothing_else(model_checkpoints: Checkpoints, chats: Chats) -> None:
    model, tokenizer = load_model(model_checkpoints("llama").path, torch.float32), chats("llama").tokenizer

    def sample(seed: int) -> list[Answer]:
        return generate_answers(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=2, temperature=1.0, seed=seed)

    torch.manual_seed(1)
    first = sample(5)
    torch.manual_seed(2)
    assert sample(5) == first
    assert sample(6) != first


def test_samples_come_from_the_whole_distribution(model_checkpoints: Checkpoints, chats: Chats) -> None:
    model, tokenizer = load_model(model_checkpoints("llama").path, torch.float32), chats("llama").tokenizer
    # At a temperature of 1e6 all 259 tokens are as good as equally likely: of 2000 first tokens, 259 x (1 - e^(-7.7))
    # = 258.9 are expected to occur; a left-over top_k of 50 would leave 50.
    answers = generate_answers(
        model, tokenizer, [[40]] * 2000, max_new_tokens=1, batch_size=2000, temperature=1e6, seed=0
    )
    assert len({answer.token_ids[0] for answer in answers}) > 250


def test_a_small_top_p_leaves_the_likeliest_token_alone(model_checkpoints: Checkpoints, chats: Chats) -> None:
    model, tokenizer = load_model(model_checkpoints("qwen2").path, torch.float32), chats("qwen2").tokenizer
    how = {"max_new_tokens": 6, "batch_size": 5}
    nucleus = generate_answers(model, tokenizer, PROMPTS, temperature=1.0, top_p=1e-6, seed=3, **how)
    assert nucleus == generate_answers(model, tokenizer, PROMPTS, **how)
    assert nucleus != generate_answers(model, tokenizer, PROMPTS, temperature=1.0, seed=3, **how)


def test_settings_of_the_models_generation_config_do_not_change_answers(
    model_checkpoints: Checkpoints, chats: Chats
) -> None:
    model, tokenizer = load_model(model_checkpoints("llama").path, torch.float32), chats("llama").tokenizer
    plain = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=5)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.no_repeat_ngram_size = 1
    assert generate_answers(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=5) == plain


def test_answers_end_unfinished_where_the_model_has_no_positions_left(
    model_checkpoints: Checkpoints, chats: Chats
) -> None:
    model, tokenizer = load_model(model_checkpoints("gpt2").path, torch.float32), chats("gpt2").tokenizer
    # gpt2 has 256 learned positions: 250 prompt tokens leave 6, 256 and 300 leave none
    for length, room in ((250, 6), (256, 0), (300, 0)):
        [answer] = generate_answers(model, tokenizer, [[40] * length], max_new_tokens=20, batch_size=1)
        assert len(answer.token_ids) == room
        assert not answer.finished


def test_no_prompts_give_no_answers(model_checkpoints: Checkpoints, chats: Chats) -> None:
    model = load_model(model_checkpoints("llama").path, torch.float32)
    assert generate_answers(model, chats("llama").tokenizer, [], max_new_tokens=3, batch_size=2) == []


def test_adapted_model_generates_as_itself_and_gets_its_generation_config_back(
    family: str, model_checkpoints: Checkpoints, chats: Chats
) -> None:
    from peft import get_peft_model

    model, tokenizer = load_model(model_checkpoints(family).path, torch.float32), chats(family).tokenizer
    model.generation_config.repetition_penalty = 5.0
    plain = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=5)
    attached = get_peft_model(model, adapter_config(LoraAdapter(r=2), model))
    assert generate_answers(attached, tokenizer, PROMPTS, max_new_tokens=8, batch_size=5) == plain
    assert attached.generation_config.repetition_penalty == 5.0
    assert attached.get_base_model().generation_config.repetition_penalty == 5.0
    with torch.no_grad():
        for name, parameter in attached.named_parameters():
            if "lora_B" in name:
                parameter += 1.0
    assert generate_answers(attached, tokenizer, PROMPTS, max_new_tokens=8, batch_size=5) != plain
