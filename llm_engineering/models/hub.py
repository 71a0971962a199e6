"""The Hugging Face hub as a place for models; its token comes from the environment or `hf auth login` alone."""

from pathlib import Path

from llm_engineering.config.export import HubExport
from llm_engineering.errors import StoreError

STALE = ["*.safetensors", "*.safetensors.index.json", "*.gguf"]
"""What an earlier push left and this one may not have: weights in other shards would be read with these."""


def require_hub(hub: HubExport, repository: str) -> None:
    """Refuse a push that cannot work: no login, no network, or a repository that is public against the configuration.

    Raises:
        StoreError: Says which.
    """
    import httpx
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if get_token() is None:
        raise StoreError("export.hub needs a login. Set HF_TOKEN, run `hf auth login`, or remove export.hub.")
    try:
        HfApi().whoami()
        _require_private(repository, private=hub.private)
    except OfflineModeIsEnabled as error:
        raise StoreError("export.hub needs the network, and HF_HUB_OFFLINE is set. Unset it, or remove it.") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise StoreError(
            f"export.hub cannot be used: {_first_line(error)} Check the network and the token, or remove export.hub."
        ) from error


def push(folder: Path, repository: str, *, private: bool) -> None:
    """Upload a folder to a repository, which is made where it is missing.

    Raises:
        StoreError: The hub refuses it, or the repository is public where it should not be.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        _require_private(repository, private=private)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Add the promoted model", delete_patterns=STALE
        )
    except (HfHubHTTPError, httpx.HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise StoreError(f"{repository} was not pushed to the hub: {_first_line(error)}") from error


def _require_private(repository: str, *, private: bool) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = HfApi().model_info(repository)
    except RepositoryNotFoundError:
        return
    if private and not found.private:
        raise StoreError(
            f"The repository {repository} is public and export.hub.private is true. Name another, or set it to false."
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{text[0] if text else type(error).__name__}".rstrip(".") + "."
