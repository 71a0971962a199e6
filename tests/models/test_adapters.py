from collections.abc import Callable

import pytest
import torch

from llm_engineering.config.model import DoraAdapter, LoraAdapter
from llm_engineering.errors import ConfigError
from llm_engineering.models.adapters import adapter_config
from llm_engineering.models.checkpoints import load_model
from llm_engineering.reports.folders import Checkpoint

Checkpoints = Callable[[str], Checkpoint]


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        # r x (inputs + outputs) of every linear layer but the output layer, r = 2, two layers
        ("llama", 2 * 2 * (4 * (16 + 16) + 3 * (16 + 32))),
        ("qwen2", 2 * 2 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 32))),
        ("gpt2", 2 * 2 * ((16 + 48) + (16 + 16) + 2 * (16 + 64))),
        ("gpt_neox", 2 * 2 * ((16 + 48) + (16 + 16) + 2 * (16 + 32))),
    ],
)
def test_all_linear_adapts_every_linear_layer_but_the_output(
    family: str, parameters: int, model_checkpoints: Checkpoints
) -> None:
    from peft import get_peft_model

    model = load_model(model_checkpoints(family).path, torch.float32)
    attached = get_peft_model(model, adapter_config(LoraAdapter(r=2), model))
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == parameters


def test_settings_reach_the_adapter(model_checkpoints: Checkpoints) -> None:
    model = load_model(model_checkpoints("llama").path, torch.float32)
    made = adapter_config(DoraAdapter(r=3, alpha=12, dropout=0.25, targets=["q_proj", "v_proj"]), model)
    assert (made.r, made.lora_alpha, made.lora_dropout, made.use_dora) == (3, 12, 0.25, True)
    assert made.target_modules == {"q_proj", "v_proj"}
    assert adapter_config(LoraAdapter(), model).use_dora is False


@pytest.mark.parametrize("adapter", [LoraAdapter(r=2), DoraAdapter(r=2)], ids=["lora", "dora"])
def test_fresh_adapter_changes_nothing(adapter: LoraAdapter, family: str, model_checkpoints: Checkpoints) -> None:
    from peft import get_peft_model

    model = load_model(model_checkpoints(family).path, torch.float32)
    ids = torch.tensor([[40, 41, 42, 43]])
    with torch.no_grad():
        before = model(ids).logits
        after = get_peft_model(model, adapter_config(adapter, model)).eval()(ids).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5 if isinstance(adapter, DoraAdapter) else 0)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_proj", "query", "c_attn"], r"\['c_attn', 'query'\] match no linear layer"),
        (["norm"], r"\['norm'\] match no linear layer"),
        ([], r"\[\] match no linear layer"),
    ],
)
def test_targets_that_match_nothing_list_what_there_is(
    targets: list[str], said: str, model_checkpoints: Checkpoints
) -> None:
    model = load_model(model_checkpoints("llama").path, torch.float32)
    there = "There are: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(ConfigError, match=f"{said} of the model. {there}"):
        adapter_config(LoraAdapter(targets=targets), model)
