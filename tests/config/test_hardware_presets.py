"""The shipped configurations of eight GPUs: laid over data, each is valid, and docs quote its estimate."""

from pathlib import Path

import pytest
from transformers import LlamaConfig

from llm_engineering.config.hardware import TorchrunHardware
from llm_engineering.config.yaml.loader import CONFIGS_DIR, load_config
from llm_engineering.planning.estimate import Machine, StageRows, estimate
from llm_engineering.planning.estimate_text import span_of_bytes
from llm_engineering.planning.shape import read_shape
from llm_engineering.reports.folders import StageName
from llm_engineering.training.arguments import require_shares

PRESETS = sorted(path.stem for path in (CONFIGS_DIR / "hardware").glob("*.yaml"))
LLAMA = {"vocab_size": 128256, "num_key_value_heads": 8, "architectures": ["LlamaForCausalLM"]}
SIZES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
ROWS: dict[StageName, StageRows] = {"sft": StageRows(100_000, 600, 2048), "dpo": StageRows(50_000, 1200, 2048)}
PAGE = Path(__file__).parents[2] / "docs" / "many_gpus.md"


def test_there_are_the_four_presets() -> None:
    assert PRESETS == ["70b-full-zero3", "70b-qlora-fsdp", "8b-full-fsdp", "8b-lora-ddp"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_goes_with_data_and_its_batches_divide(name: str) -> None:
    config = load_config(["qwen-human-like", name])
    assert isinstance(config.hardware, TorchrunHardware)
    assert config.data.sft
    assert require_shares("sft", config.sft, config.hardware) * 8 == config.sft.batch_size
    assert require_shares("dpo", config.dpo, config.hardware) * 8 == config.dpo.batch_size
    assert config.sft.effective_batch == config.dpo.effective_batch == 32


@pytest.mark.parametrize("name", PRESETS)
def test_docs_quote_the_estimate(name: str, tmp_path: Path) -> None:
    sizes = SIZES[name.partition("-")[0]]
    LlamaConfig(**LLAMA, **sizes, tie_word_embeddings=False).save_pretrained(tmp_path)
    gpu = Machine("a GPU", on_gpu=True, speed=1e14, measured=False)
    found = estimate(load_config([name]), read_shape(tmp_path), ROWS, gpu)
    loading = f"{found.loading / 1e9:,.0f} GB" if found.loading else "in place"
    spans = [span_of_bytes(found.stages[stage].peak) for stage in ROWS]
    line = f"| `{name}` | {' | '.join(spans)} | {loading} | {span_of_bytes(found.merge)} |"
    assert line in PAGE.read_text(encoding="utf-8"), line
