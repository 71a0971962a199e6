"""Rebuild the bundled base model from its generator: same seed, same machine, same bytes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from tools.command import Command

if TYPE_CHECKING:
    from llm_engineering.embedded.build import BuildProgress


@click.command(cls=Command)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to save the model in."
)
@click.option("--seed", type=int, default=None, help="Seed of corpus, weights and order. Default: the recipe's.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Optimizer steps. Default: the recipe's.")
def main(out: Path, seed: int | None, steps: int | None) -> None:
    """Train the tiny base model on the prose of the embedded domain; minutes on one CPU thread."""
    from transformers.utils import logging

    from llm_engineering.embedded.build import BASE_DIR, RECORD_NAME, BaseModelRecipe, build_base_model, read_record

    logging.disable_progress_bar()
    shipped = read_record(BASE_DIR) if (BASE_DIR / RECORD_NAME).exists() else None
    given = {name: value for name, value in {"seed": seed, "steps": steps}.items() if value is not None}
    recipe = BaseModelRecipe(**given)
    click.echo(
        f"Building {recipe.num_layers} layers of width {recipe.hidden_size}, {recipe.steps} steps, seed {recipe.seed}."
    )
    with click.progressbar(
        length=recipe.steps, label="Training", item_show_func=_show_loss, update_min_steps=20
    ) as bar:

        def advance(progress: BuildProgress) -> None:
            bar.update(1, progress)

        record = build_base_model(out, recipe, advance)
    click.echo(f"Saved {record.num_parameters:,} parameters to {out}; loss {record.loss:.3f}.")
    click.echo(f"sha256 of model.safetensors: {record.sha256}")
    if shipped is not None and recipe == shipped.recipe:
        verdict = "the same" if record.sha256 == shipped.sha256 else "NOT the same"
        built_with = ", ".join(f"{name} {version}" for name, version in shipped.versions.items())
        click.echo(f"The shipped model's: {shipped.sha256}, {verdict}; it was built with {built_with}.")


def _show_loss(progress: BuildProgress | None) -> str:
    return "" if progress is None else f"loss {progress.loss:.3f}"


if __name__ == "__main__":
    main()
