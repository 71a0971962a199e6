"""The command line of transformers with its server behind :class:`OwnPages`: ``serve`` takes no middleware.

Two of its answers are mended: the list of models, and what becomes of a prompt that the model has no positions for.
"""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from llm_engineering.own_pages import OwnPages


class PromptTooLongError(Exception):
    """A prompt leaves the model no position to answer at."""


def mend_server() -> None:
    """Have the server of transformers built with what is added here."""
    from transformers.cli.serving import server
    from transformers.cli.serving.utils import GenerateManager

    server.build_server = _guarded(server.build_server)
    for name in ("generate_streaming", "generate_non_streaming"):
        setattr(GenerateManager, name, _within_positions(getattr(GenerateManager, name)))


def _guarded(build: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(build)
    def build_guarded(manager: Any, *arguments: Any, **settings: Any) -> Any:
        model = {"id": manager.force_model, "object": "model", "created": int(time.time()), "owned_by": ""}
        manager.get_gen_models = lambda: [model]  # it looks into the cache of the hub, which may not be there
        app = build(manager, *arguments, **settings)
        app.add_exception_handler(PromptTooLongError, _refuse)
        app.add_middleware(OwnPages)
        return app

    return build_guarded


def _within_positions(generate: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse prompts that leave no position for an answer, and end answers where the positions do."""

    @wraps(generate)
    def generate_within(manager: Any, model: Any, processor: Any, inputs: Any, config: Any, **settings: Any) -> Any:
        positions, length = getattr(model.config, "max_position_embeddings", None), inputs["input_ids"].shape[-1]
        if positions is not None:
            if length >= positions:
                raise PromptTooLongError(f"The prompt has {length} tokens and the model {positions} positions.")
            config.max_new_tokens = min(config.max_new_tokens or positions, positions - length)
        return generate(manager, model, processor, inputs, config, **settings)

    return generate_within


def _refuse(_: Any, error: Exception) -> Any:
    """Answer as OpenAI's endpoint does."""
    from fastapi.responses import JSONResponse

    told = {"message": str(error), "type": "invalid_request_error", "param": "messages"}
    return JSONResponse({"error": {**told, "code": "context_length_exceeded"}}, status_code=400)


def main() -> None:
    """Run the command line of transformers."""
    from transformers.cli import transformers

    mend_server()
    transformers.main()


if __name__ == "__main__":
    main()
