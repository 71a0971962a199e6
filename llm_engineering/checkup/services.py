"""The Hugging Face hub and Comet: what is configured here, and, where that is asked for, whether they answer."""

import os
from collections.abc import Iterator, Mapping

from llm_engineering.checkup.finding import Finding

SECONDS = 5.0
"""How long a server has to answer."""
PUBLIC_MODEL = "openai-community/gpt2"


def examine_hub(*, network: bool) -> Iterator[Finding]:
    """Look for a token of the hub and, with ``network``, ask the hub whether it takes it."""
    from huggingface_hub import constants, get_token

    token = get_token()
    if constants.HF_HUB_OFFLINE:
        text = "switched off by HF_HUB_OFFLINE; what is in the cache can be used"
        yield Finding("hub", "note", text, "Unset HF_HUB_OFFLINE to fetch models or data.")
    elif network:
        yield _ask_hub(constants.ENDPOINT, token)
    else:
        known = "a token is stored" if token else "no token is stored"
        yield Finding("hub", "ok", f"{known}; the hub was not asked (--network asks it)")
    if not token:
        remedy = "Run `hf auth login`, or set HF_TOKEN, for models and data that need it."
        yield Finding("hub login", "note", "not logged in: gated and private models cannot be fetched", remedy)


def _ask_hub(endpoint: str, token: str | None) -> Finding:
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi(endpoint).model_info(PUBLIC_MODEL, timeout=SECONDS, token=token or False)
        return Finding("hub", "ok", f"{endpoint} answers{', and takes the stored token' if token else ''}")
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            return Finding("hub", "problem", f"{endpoint} refuses the stored token", "Run `hf auth login` again.")
        text = f"{endpoint} answers with status {error.response.status_code}"
        return Finding("hub", "problem", text, "Try again later, or set HF_ENDPOINT to a mirror.")
    except (httpx.HTTPError, OSError) as error:
        text = f"{endpoint} cannot be reached: {type(error).__name__}"
        return Finding("hub", "problem", text, "Mend the network or the proxy; local and cached models work without.")


def examine_comet(environment: Mapping[str, str] | None = None, *, network: bool) -> Iterator[Finding]:
    """Look for Comet's key, which is never shown, and, with ``network``, ask its server for a sign of life."""
    given = (os.environ if environment is None else environment).get("COMET_API_KEY")
    import comet_ml

    key = given or comet_ml.get_config("comet.api_key")
    if not key:
        remedy = "Set COMET_API_KEY to log online; `comet upload` sends archives later."
        yield Finding("Comet", "note", "no key: every stage is logged to an offline archive", remedy)
        return
    server = comet_ml.get_backend_address()
    if not network:
        yield Finding("Comet", "ok", f"a key is there, for {server}; it was not asked (--network asks it)")
        return
    import httpx

    try:
        httpx.get(server, timeout=SECONDS)
        yield Finding("Comet", "ok", f"a key is there, and {server} answers")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        text = f"a key is there, but {server} cannot be reached: {type(error).__name__}"
        yield Finding("Comet", "problem", text, "Mend the network; until then stages are logged offline.")
