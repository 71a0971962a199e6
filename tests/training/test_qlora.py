"""QLoRA on the CPU kernels of bitsandbytes, which compute what its CUDA kernels do; users are refused without a GPU."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from token_rows import PROMPTS

pytest.importorskip("bitsandbytes")

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.model import LoraAdapter, ModelConfig, QloraAdapter
from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.errors import ModelError
from llm_engineering.models import adapters
from llm_engineering.models.adapters import load_for_training
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import describe_checkpoint
from llm_engineering.models.merging import merge_adapter
from llm_engineering.training.dpo import train_dpo
from llm_engineering.training.sft import train_sft

pytestmark = [
    pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="compares with weights on the CPU"),
]
SFT = SFTStageConfig(epochs=6, learning_rate=1e-2, logging_steps=1)


@pytest.fixture(scope="module")
def wide_base(tiny_base, tmp_path_factory):
    """Return the tiny base with layers as wide as a block of 4-bit weights, 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide-base") / "model"
    shutil.copytree(tiny_base.path, folder)
    config = LlamaConfig.from_pretrained(folder, hidden_size=64, intermediate_size=128, head_dim=32)
    torch.manual_seed(7)
    LlamaForCausalLM(config).save_pretrained(folder)
    wide = describe_checkpoint(folder, "model", tiny_base)
    return wide.model_copy(update={"base_sha256": wide.weights_sha256})


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    monkeypatch.setattr(adapters, "require_bitsandbytes", lambda bits: None)


@pytest.mark.parametrize(("bits", "kept_as"), [(4, torch.uint8), (8, torch.int8)])
def test_linear_weights_are_kept_in_few_bits(bits, kept_as, wide_base):
    model = load_for_training(wide_base.path, ModelConfig(), QloraAdapter(bits=bits))
    assert model.model.layers[0].mlp.up_proj.weight.dtype == kept_as
    assert model.get_input_embeddings().weight.dtype == torch.float32


@pytest.mark.parametrize("bits", [4, 8])
def test_weight_that_is_no_number_is_found_in_the_file(bits, wide_base, tmp_path):
    folder = shutil.copytree(wide_base.path, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight of the model in .*broken holds NaN"):
        load_for_training(folder, ModelConfig(), QloraAdapter(bits=bits))


@pytest.mark.parametrize("bits", [4, 8])
def test_adapter_of_quantised_weights_merges_into_the_base_as_it_was(bits, make_inputs, sft_rows, wide_base, tmp_path):
    adapter, report = train_sft(SFT, make_inputs(sft_rows, base=wide_base, adapter=QloraAdapter(r=4, bits=bits)))
    assert report.path == "TRL's own: quantised weights"
    assert report.metrics["loss"] < 0.8 * report.history[0]["loss"]
    tokenizer = load_chat_tokenizer(wide_base, ModelConfig()).tokenizer
    arguments = {"stage": "sft", "dtype": torch.float32, "folder": tmp_path / "merged"}
    merged, merge = merge_adapter(wide_base, adapter, tokenizer, PROMPTS[:3], **arguments)
    assert merge.max_logit_difference <= 1e-4
    plain = load_for_training(merged.path, ModelConfig(), LoraAdapter())
    assert {p.dtype for p in plain.parameters()} == {torch.float32}


def test_quantised_model_with_the_adapter_off_is_the_reference(make_inputs, preference_rows, wide_base):
    config = DPOStageConfig(epochs=4, learning_rate=1e-2, logging_steps=1)
    _, report = train_dpo(config, make_inputs(preference_rows, base=wide_base, adapter=QloraAdapter(r=4, bits=8)))
    proof = report.reference
    assert proof.step0_loss == pytest.approx(0.693147, abs=1e-5)
    assert proof.sft_sha256 == proof.reference_sha256_before == proof.reference_sha256_after
    assert report.metrics["loss"] < report.history[0]["loss"]
