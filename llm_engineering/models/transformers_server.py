"""The command line of transformers with its server behind :class:`OwnPages`: ``serve`` takes no middleware."""

from typing import Any

from llm_engineering.own_pages import OwnPages


def main() -> None:
    """Run the command line of transformers."""
    from transformers.cli import transformers
    from transformers.cli.serving import server

    build = server.build_server

    def build_guarded(*arguments: Any, **settings: Any) -> Any:
        app = build(*arguments, **settings)
        app.add_middleware(OwnPages)
        return app

    server.build_server = build_guarded
    transformers.main()


if __name__ == "__main__":
    main()
