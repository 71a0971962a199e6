"""Models where they are needed: their folders are fetched by the step that wants them, and no earlier."""

from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from uuid import UUID

from zenml import get_step_context
from zenml.client import Client

from llm_engineering.config.evaluation import HarnessConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.errors import ModelError, StoreError
from llm_engineering.models.checkpoints import (
    DESCRIPTION,
    fetch_hub_description,
    fetch_hub_model,
    locate_base,
)
from llm_engineering.reports.folders import Checkpoint, Folder, FromHub, FromPackage, FromStore
from steps.runtime.context import run_settings
from steps.runtime.stores import download, download_whole
from steps.runtime.work import input_folder

STORED = "artifact:"
"""How a path begins that stands for a stored folder; the id of the artifact's version follows."""


def at_hand(model: Checkpoint) -> Checkpoint:
    """Return a model whose folder lies here, with all its files.

    Raises:
        ModelError: It is not the model that the run was submitted with.
        StoreError: What is stored is damaged, or gone.
    """
    match model.fetch:
        case None:
            return model
        case FromPackage():
            found = locate_base(ModelConfig(base=model.base))
        case FromHub():
            found = fetch_hub_model(model.fetch, model.base)
            model = model.model_copy(update={"weights_sha256": _known(model.fetch)})
        case FromStore():
            found = model.model_copy(update={"path": _stored(model), "fetch": None})
    _require_same(model, found)
    return found


def all_at_hand(models: Mapping[str, Checkpoint | None]) -> dict[str, Checkpoint]:
    """Return the models that there are, each with its folder here."""
    return {name: at_hand(model) for name, model in models.items() if model is not None}


def described(model: Checkpoint) -> Checkpoint:
    """Return a model whose folder here has its configuration, tokenizer and card, and its weights only if it must."""
    match model.fetch:
        case None:
            return model
        case FromPackage():
            return at_hand(model)
        case FromHub():
            return model.model_copy(update={"path": fetch_hub_description(model.fetch)})
        case FromStore():
            folder = input_folder(f"{model.sha256}-description")
            if not folder.is_dir():
                download(model.fetch.address, folder, lambda name: any(fnmatch(name, each) for each in DESCRIPTION))
            return model.model_copy(update={"path": folder})


def _stored(model: Checkpoint) -> Path:
    assert isinstance(model.fetch, FromStore)
    if model.fetch.version is not None:
        _note_as_input(model.fetch.version)
    folder = input_folder(model.sha256)
    if not folder.is_dir():
        download_whole(model.fetch.address, folder, model.sha256)
    return folder


def _note_as_input(version: str) -> None:
    """Show the artifact among the inputs of this step, which ZenML does with what a step looks up."""
    with suppress(RuntimeError):  # there is no step
        get_step_context()
        Client().get_artifact_version(UUID(version))


def _known(source: FromHub) -> str:
    """Return the weights hash that the submitter of this step's run has seen, empty where it has none."""
    try:
        return str(run_settings().get("known_weights", {}).get(source.revision, ""))
    except RuntimeError:  # there is no step
        return ""


def _require_same(asked: Checkpoint, found: Checkpoint) -> None:
    """Refuse another model than the one that was looked at when the run was submitted, where that is known."""
    if asked.weights_sha256 and asked.weights_sha256 != found.weights_sha256:
        raise ModelError(
            f"The weights of {asked.base!r} are not the same here as where the run was submitted: "
            f"{found.weights_sha256[:12]}, not {asked.weights_sha256[:12]}. Use the image that belongs to the code, or "
            "pin model.revision."
        )


def tasks_at_hand(harness: HarnessConfig) -> HarnessConfig:
    """Return the harness's settings with its task files here, where they were stored for steps that run elsewhere."""
    if harness.include_path is None or not harness.include_path.startswith(STORED):
        return harness
    folder = stored_folder(harness.include_path.removeprefix(STORED))
    return harness.model_copy(update={"include_path": str(folder.path)})


def stored_folder(version: str) -> Folder:
    """Return a folder that was stored, here.

    Raises:
        StoreError: The artifact holds something else.
    """
    found = Client().get_artifact_version(UUID(version)).load()
    if not isinstance(found, Folder):
        raise StoreError(f"The artifact {version} holds no folder. Submit the run again.")
    return found
