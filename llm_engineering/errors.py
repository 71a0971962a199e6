"""What a user can act on.

Every error says in one sentence what is wrong, where it is and what to do. ``exit_code`` is the process's exit code:
2 for a mistake in the request (configuration, data, model folder), 1 for something that failed while it ran.
"""

import errno


class PipelineError(Exception):
    """The base of all errors that are shown as one sentence, without a traceback."""

    exit_code = 1


class UserError(PipelineError):
    """The request cannot be carried out as asked."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration file, a ``--set`` value or a combination of settings is wrong."""


class DataError(UserError):
    """A data set cannot be read, mapped to a format or used for training."""


class ModelError(UserError):
    """A model folder, its tokenizer or its chat template cannot be used."""


class StoreError(UserError):
    """A run, a model version or a folder that was asked for cannot be found or written."""


class ImageError(UserError):
    """The packages that a step runs on are not those that its run was submitted with."""


class LibraryError(UserError):
    """An installed library is not as the work needs it."""


class ProofError(PipelineError):
    """A proof that every run carries has failed: the run stops rather than report numbers that mean nothing."""


class TrainingError(PipelineError):
    """Training could not go on (no space left, a loss that is not a number)."""


class SpaceError(PipelineError):
    """No space is left on the disk."""


class StoppedFollowing(PipelineError):
    """Nobody watches a run any more that goes on elsewhere."""

    exit_code = 130


def no_space(error: BaseException | None) -> SpaceError | None:
    """Return what to say where a full disk is behind an error, however many others were raised over it."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "database or disk is full" in str(error):
            return SpaceError("No space is left on the disk. Free some and start again: finished work is kept.")
        error = error.__cause__ or error.__context__
    return None


def error_named(name: str, sentence: str) -> PipelineError | None:
    """Return an error that another process has raised; None where no class of this module has that name.

    Args:
        name: Of its class, with or without the module.
        sentence: What it said.
    """
    kind = globals().get(name.removeprefix(f"{__name__}."))
    return kind(sentence) if isinstance(kind, type) and issubclass(kind, PipelineError) else None
