"""Tiny random models that every room's tests may use: made once a session, without a network."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores: more threads only wait for each other

from llm_engineering.config.model import ModelConfig
from llm_engineering.models.chat import TEMPLATE_TOKENS, TEMPLATES, ChatTokenizer, load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.reports.folders import Checkpoint

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox")
NUM_POSITIONS = 256
CORPUS = (
    "What colour is the zebra? The zebra is black and white.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\nName a town.\n\n### Response:\nParis is a town in France.\n\n",
    "Where does the otter live? The otter lives in the river, and it eats fish.",
)
"""What the tokenizers of qwen2, gpt2 and gpt_neox learn their merges from; llama's has none: a byte is a token."""

ModelFolders = Callable[[str], Path]


def pytest_configure() -> None:
    """Hear Ctrl-C, and let processes that tests start hear it: a shell has jobs in the background ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment at its import only


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> ModelFolders:
    """Return a function that gives the folder of one of FAMILIES; nobody may write into it.

    llama: ChatML template, embeddings tied, a byte is a token. qwen2: ChatML template, ``<|endoftext|>`` pads, nothing
    tied. gpt2: no template, ``<|endoftext|>`` is its only special token, Conv1D layers, embeddings tied.
    gpt_neox: no template, ChatML's tokens in the vocabulary, nothing tied.
    """
    made: dict[str, Path] = {}

    def folder_of(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("models") / family
            write_model(family, made[family])
        return made[family]

    return folder_of


@pytest.fixture(scope="session")
def model_checkpoints(model_folders: ModelFolders) -> Callable[[str], Checkpoint]:
    """Return a function that gives the checkpoint of one of FAMILIES."""
    made: dict[str, Checkpoint] = {}

    def checkpoint_of(family: str) -> Checkpoint:
        if family not in made:
            made[family] = locate_base(ModelConfig(base=str(model_folders(family))))
        return made[family]

    return checkpoint_of


@pytest.fixture(scope="session")
def chats(model_checkpoints: Callable[[str], Checkpoint]) -> Callable[[str], ChatTokenizer]:
    """Return a function that gives the chat tokenizer of one of FAMILIES; nobody may change it."""
    made: dict[str, ChatTokenizer] = {}

    def chat_of(family: str) -> ChatTokenizer:
        if family not in made:
            made[family] = load_chat_tokenizer(model_checkpoints(family), ModelConfig())
        return made[family]

    return chat_of


def write_model(family: str, folder: Path) -> None:
    """Write a model of a few thousand random parameters, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    tokenizer = make_tokenizer(family)
    config = make_config(family, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(FAMILIES.index(family))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():  # far from uniform, so that greedy answers differ from prompt to prompt
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_config(family: str, tokenizer: "PreTrainedTokenizerBase") -> "PretrainedConfig":
    """Return the configuration of two layers, four heads' worth of width 16."""
    from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config

    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    size = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": NUM_POSITIONS,
        **ends,
    }
    if family == "llama":
        return LlamaConfig(**size, num_key_value_heads=2, tie_word_embeddings=True)
    if family == "qwen2":
        return Qwen2Config(**size, num_key_value_heads=1, tie_word_embeddings=False)
    if family == "gpt_neox":
        return GPTNeoXConfig(**size, tie_word_embeddings=False)
    return GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=NUM_POSITIONS, **ends)


def make_tokenizer(family: str) -> "PreTrainedTokenizerBase":
    """Return a byte-level BPE tokenizer trained here, with the special tokens of a family."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", *(() if family == "gpt2" else TEMPLATE_TOKENS["chatml"])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    num_merges = 0 if family == "llama" else 60
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet) + num_merges,
        special_tokens=special,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    own = {
        "llama": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "gpt2": {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"},
        "gpt_neox": {"eos_token": "<|endoftext|>"},
    }
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=NUM_POSITIONS, **own[family])
    if family in ("llama", "qwen2"):
        fast.chat_template = (TEMPLATES / "chatml.jinja").read_text(encoding="utf-8")
    return fast


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)
