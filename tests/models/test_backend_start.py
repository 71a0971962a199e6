"""Unsloth has to come first, silent, off the network and out of the working directory; else one sentence says why.

The packages named ``unsloth`` here are stand-ins of a few lines: what is tested happens before and around the import.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from llm_engineering.config.model import FullFineTuning, ModelConfig, PeftBackend, UnslothBackend
from llm_engineering.errors import ConfigError
from llm_engineering.models.adapters import require_hardware
from llm_engineering.models.backends import pick_backend

REPOSITORY = Path(__file__).parents[2]
START = """
from llm_engineering.config.model import UnslothBackend
from llm_engineering.errors import ConfigError
from llm_engineering.models.backends import pick_backend
try:
    pick_backend(UnslothBackend()).start()
except ConfigError as error:
    print("refused:", error)
"""


def stand_in(folder: Path, source: str) -> Path:
    package = folder / "unsloth"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (folder / "unsloth-1.2.3.dist-info").mkdir()
    (folder / "unsloth-1.2.3.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: unsloth\nVersion: 1.2.3\n"
    )
    return folder


def started_with(folder: Path, source: str, code: str = START, **environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("UNSLOTH")}
    variables |= {"PYTHONPATH": f"{stand_in(folder, source)}:{REPOSITORY}", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_unsloth_that_is_not_installed_says_how_to_install_it() -> None:
    if find_spec("unsloth"):
        pytest.skip("Unsloth is installed here")
    with pytest.raises(ConfigError, match=r"not installed: pip install '\.\[unsloth\]', or set model\.backend"):
        pick_backend(UnslothBackend()).start()


def test_unsloth_after_what_it_patches_is_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers  # noqa: F401

    monkeypatch.syspath_prepend(stand_in(tmp_path, ""))
    with pytest.raises(ConfigError, match=r"comes too late: transformers.* imported before it\. Start it first"):
        pick_backend(UnslothBackend()).start()


def test_unsloth_that_refuses_the_machine_is_one_sentence(tmp_path: Path) -> None:
    found = started_with(tmp_path, 'raise NotImplementedError("You need a GPU.\\nSee our page.")')
    assert found == (
        "refused: model.backend unsloth does not run here: Unsloth 1.2.3 says 'You need a GPU.'. Use a machine that it "
        "supports, or set model.backend to {type: peft}.\n"
    )


def test_unsloth_is_silent_reports_nothing_and_caches_outside_the_working_directory(tmp_path: Path) -> None:
    code = f"{START}import unsloth; print(unsloth.SEEN)"
    source = "import os; print('a banner'); SEEN = {k: v for k, v in os.environ.items() if k.startswith('UNSLOTH')}"
    caches = tmp_path / "caches"
    assert started_with(tmp_path, source, code, XDG_CACHE_HOME=str(caches)) == (
        f"{{'UNSLOTH_DISABLE_STATISTICS': '1', 'UNSLOTH_COMPILE_LOCATION': '{caches}/llm-engineering/unsloth'}}\n"
    )


def test_peft_needs_no_start() -> None:
    pick_backend(PeftBackend()).start()


def test_trainers_that_unsloth_has_rewritten_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import trl

    monkeypatch.setitem(sys.modules, "unsloth", ModuleType("unsloth"))
    monkeypatch.setattr(trl, "SFTTrainer", type("UnslothSFTTrainer", (), {"__module__": "UnslothSFTTrainer"}))
    with pytest.raises(ConfigError, match=r"replaced trl\.SFTTrainer, and its trainers attach no adapter"):
        pick_backend(UnslothBackend()).load(Path("anywhere"), torch.float32)


def test_full_fine_tuning_under_unsloth_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.type full needs model\.backend \{type: peft\}"):
        require_hardware(ModelConfig(backend=UnslothBackend()), FullFineTuning())
