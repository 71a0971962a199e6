"""Preference losses that are not TRL's: this project's, and those of the user's that ``dpo.loss`` names.

A loss is a function of the summed log-probabilities of the chosen and the rejected answers, their tokens, those of the
reference, and settings of ``dpo``. It asks for what it needs by the names of its parameters, and returns a loss a pair.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_engineering.config.block import is_default
from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.losses import LOSSES
from llm_engineering.config.own_functions import load_function
from llm_engineering.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

POLICY_LOGPS = ("chosen_logps", "rejected_logps")
"""Summed log-probabilities of the answers, in nats, one a pair."""
TOKENS = ("chosen_tokens", "rejected_tokens")
REFERENCE_LOGPS = ("ref_chosen_logps", "ref_rejected_logps")
SETTINGS = ("beta", "label_smoothing", "simpo_gamma")
"""Fields of the stage's configuration, as numbers."""


def simpo(
    chosen_logps: "Tensor",
    rejected_logps: "Tensor",
    chosen_tokens: "Tensor",
    rejected_tokens: "Tensor",
    beta: float,
    simpo_gamma: float,
) -> "Tensor":
    """Return ``-log sigma(beta / |y_w| log pi(y_w) - beta / |y_l| log pi(y_l) - gamma)``.

    Meng et al. 2024 (arXiv:2405.14734), equation 6.
    """
    from torch.nn.functional import logsigmoid

    margin = chosen_logps / chosen_tokens - rejected_logps / rejected_tokens
    return -logsigmoid(beta * margin - simpo_gamma)


def orpo(
    chosen_logps: "Tensor",
    rejected_logps: "Tensor",
    chosen_tokens: "Tensor",
    rejected_tokens: "Tensor",
    beta: float,
) -> "Tensor":
    """Return the cross-entropy a token of the chosen answer, plus ``-beta log sigma(log odds(y_w) / odds(y_l))``.

    Hong et al. 2024 (arXiv:2403.07691), equations 3 to 7: ``odds(y) = p / (1 - p)`` with ``log p`` the mean
    log-probability of the answer's tokens. ``beta`` is their lambda.
    """
    from torch.nn.functional import logsigmoid

    chosen, rejected = chosen_logps / chosen_tokens, rejected_logps / rejected_tokens
    return -chosen - beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(logp: "Tensor") -> "Tensor":
    """Return ``log(p / (1 - p))`` of a log-probability; a certain answer counts as nearly certain."""
    import torch

    logp = logp.clamp(max=-torch.finfo(logp.dtype).eps)
    return logp - torch.log(-torch.expm1(logp))


@dataclass(frozen=True)
class OwnLoss:
    """A loss that is not TRL's, with the settings that it asks for."""

    name: str
    function: "Callable[..., Tensor]"
    asks: tuple[str, ...]
    """The log-probabilities and tokens that it wants."""
    settings: Mapping[str, float]

    @property
    def has_reference(self) -> bool:
        """Whether it asks for log-probabilities of the reference."""
        return not set(REFERENCE_LOGPS).isdisjoint(self.asks)

    def __call__(self, given: "Mapping[str, Tensor]") -> "Tensor":
        """Return the loss of every pair.

        Args:
            given: Log-probabilities and tokens by name, one a pair each.

        Raises:
            ConfigError: The function raises, or returns something else.
        """
        try:
            losses = self.function(**{name: given[name] for name in self.asks}, **self.settings)
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            raise ConfigError(f"The loss {self.name} raised {type(error).__name__} ({error}). Mend it.") from error
        shape = getattr(losses, "shape", None)
        if shape != given[POLICY_LOGPS[0]].shape:
            found = type(losses).__name__ if shape is None else f"a tensor of shape {tuple(shape)}"
            raise ConfigError(f"The loss {self.name} returned {found}. Return a tensor with one loss a pair.")
        return losses


def load_loss(config: DPOStageConfig) -> OwnLoss | None:
    """Return the configured loss with its settings, None for one of TRL's.

    Raises:
        ConfigError: It cannot be loaded, asks for what is not known, or takes a setting in vain.
    """
    path = config.loss_row.function
    if path is None:
        return None
    function = load_function("loss", path, ", ".join(LOSSES), f"{', '.join(POLICY_LOGPS)} and more (docs/losses.md)")
    asked = _parameters(config.loss, function)
    settings = {name: getattr(config, name) for name in SETTINGS if name in asked}
    if config.loss not in LOSSES:
        _require_used(config, asked)
    return OwnLoss(config.loss, function, tuple(name for name in asked if name not in SETTINGS), settings)


def uses_reference(config: DPOStageConfig) -> bool:
    """Return whether a stage compares its policy with a reference."""
    if config.reference_free:
        return False
    own = load_loss(config)
    return own is None or own.has_reference


def _parameters(name: str, function: "Callable[..., Tensor]") -> list[str]:
    """Return what a function asks for.

    Raises:
        ConfigError: That is not known, or its signature cannot be read.
    """
    known = (*POLICY_LOGPS, *TOKENS, *REFERENCE_LOGPS, *SETTINGS)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The loss {name} has no signature that can be read ({error}). Make it a function."
        ) from error
    unknown = [p.name for p in parameters if p.name not in known and p.default is p.empty]
    unnamed = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if unknown or unnamed:
        raise ConfigError(
            f"The loss {name} has the parameter {(unknown + unnamed)[0]}, which nothing is given for. Parameters are "
            f"given by name: {', '.join(known)}."
        )
    asked = [p.name for p in parameters if p.name in known]
    if missing := [each for each in POLICY_LOGPS if each not in asked]:
        raise ConfigError(
            f"The loss {name} has no parameter {missing[0]}. A loss compares {' and '.join(POLICY_LOGPS)}."
        )
    return asked


def _require_used(config: DPOStageConfig, asked: Sequence[str]) -> None:
    """Refuse settings that a user's function does not ask for, but ``beta``, which scales the logged rewards too.

    Raises:
        ConfigError: Names the setting.
    """
    for name in SETTINGS:
        if name not in ("beta", *asked) and not is_default(config, name):
            raise ConfigError(
                f"dpo.{name} does nothing for the loss {config.loss}, which has no parameter {name}. Leave it out, or "
                "add that."
            )
    if config.reference != "auto" and set(REFERENCE_LOGPS).isdisjoint(asked):
        raise ConfigError(
            f"dpo.reference {config.reference} does nothing for the loss {config.loss}, which asks for no "
            f"{REFERENCE_LOGPS[0]}. Leave it out."
        )
