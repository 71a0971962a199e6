"""One row a preference loss: whose function it is, which settings it takes, what it is for an untrained policy."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

LN2 = math.log(2)


@dataclass(frozen=True)
class Loss:
    """What is known of a loss before it is computed."""

    options: tuple[str, ...]
    """Settings of ``dpo`` that it takes beside ``beta``; any other is refused."""
    at_zero: Callable[[float, float], float] | None = None
    """Its value where policy and reference are equal, of beta and label smoothing; None: what ``function`` gives."""
    function: str | None = None
    """Import path of a function of :mod:`llm_engineering.training.losses`, or of the user's; None: TRL's."""
    needs: tuple[str, str] | None = None
    """An option that may not be left out, and what its paper says of it."""
    has_reference: bool = True
    """Whether it compares the policy with a reference. A user's function says so itself, by what it asks for."""
    sorts_pairs: bool = False
    """Whether it sorts the pairs of a batch: parts of it are sorted otherwise than the whole."""


OF_TRL = ("ld_alpha", "nll_weight", "reference_free")
"""What all losses of TRL's take."""
SMOOTHED, SCORED = (*OF_TRL, "label_smoothing"), (*OF_TRL, "f_divergence")
BOTH = (*SMOOTHED, "f_divergence")
"""f-divergences are for losses of the difference between chosen and rejected score."""


def _constant(value: float) -> Callable[[float, float], float]:
    return lambda beta, smoothing: value


LOSSES = {
    "sigmoid": Loss(BOTH, _constant(LN2)),
    "ipo": Loss(SCORED, lambda beta, smoothing: (0.5 / beta) ** 2),
    "hinge": Loss(SCORED, _constant(1.0)),
    "robust": Loss(BOTH, _constant(LN2)),
    "sigmoid_norm": Loss(SCORED, _constant(LN2)),
    "exo_pair": Loss(
        BOTH,
        lambda beta, smoothing: -LN2 - 0.5 * math.log(smoothing * (1 - smoothing)),
        needs=("label_smoothing", "its paper's is 1e-3"),
    ),
    "nca_pair": Loss(OF_TRL, _constant(2 * LN2)),
    "bco_pair": Loss(OF_TRL, _constant(2 * LN2)),
    "sppo_hard": Loss(OF_TRL, lambda beta, smoothing: 2 * (0.5 / beta) ** 2),
    "aot": Loss(SMOOTHED, _constant(LN2), sorts_pairs=True),
    "aot_unpaired": Loss(SMOOTHED, _constant(LN2), sorts_pairs=True),
    "apo_zero": Loss(OF_TRL, _constant(1.0)),
    "apo_down": Loss(OF_TRL, _constant(1.0)),
    "discopop": Loss((*SCORED, "discopop_tau"), _constant((LN2 + 1) / 2)),
    "simpo": Loss(("nll_weight", "simpo_gamma"), function="llm_engineering.training.losses:simpo", has_reference=False),
    "orpo": Loss((), function="llm_engineering.training.losses:orpo", has_reference=False),
}
"""The losses by the name that ``dpo.loss`` gives them: TRL's, and ours."""
OF_USERS = ("label_smoothing", "nll_weight", "reference_free", "simpo_gamma")
"""What a user's function may take: what it asks for by name is checked when it is loaded."""
OPTIONS = tuple(dict.fromkeys(option for loss in LOSSES.values() for option in loss.options))
_OF_USER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def loss_named(name: str) -> Loss:
    """Return the row of a loss, by its name or by ``module:function``."""
    return LOSSES.get(name) or Loss(OF_USERS, function=name)


def losses_with(option: str) -> str:
    """Return the names of the losses that take an option, as a list in a sentence."""
    return ", ".join(name for name, loss in LOSSES.items() if option in loss.options)


def check_name(name: str) -> str:
    """Return the name of a loss.

    Raises:
        ValueError: It is none.
    """
    if name in LOSSES or _OF_USER.fullmatch(name):
        return name
    meant = get_close_matches(name, LOSSES, n=1)
    hint = f" (did you mean {meant[0]}?)" if meant else ""
    raise ValueError(f"must be {', '.join(LOSSES)} or module:function of your own{hint}")
