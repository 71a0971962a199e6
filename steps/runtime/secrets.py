"""Keys that a run needs: from the environment or a ZenML secret, never from the configuration."""

import os

from zenml.client import Client

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.errors import ConfigError


def judge_key(config: OpenAIJudge) -> str | None:
    """Return the key of the judge's endpoint, None where the configuration says that it wants none.

    Raises:
        ConfigError: There is no such variable or secret.
    """
    if config.api_key_secret is not None:
        return _secret(config.api_key_secret)
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env)
    if not key:
        raise ConfigError(
            f"evaluation.judge needs a key, and the environment variable {config.api_key_env} is not set. Set it, name "
            "a ZenML secret with evaluation.judge.api_key_secret, or say `api_key_env: null` where the endpoint wants "
            "no key."
        )
    return key


def _secret(place: str) -> str:
    name, _, key = place.partition(".")
    try:
        values = Client().get_secret(name).secret_values
    except KeyError as error:
        raise ConfigError(
            f"evaluation.judge.api_key_secret names {place}, but ZenML has no secret {name!r}. Make it with "
            f"`zenml secret create {name} --{key}=...`."
        ) from error
    if key not in values:
        raise ConfigError(
            f"evaluation.judge.api_key_secret names {place}, but the secret has no {key!r}. It has: "
            f"{', '.join(sorted(values)) or 'nothing'}."
        )
    return str(values[key])
