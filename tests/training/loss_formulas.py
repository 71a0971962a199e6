"""The losses of docs/losses.md, written down from their papers, in float64 and apart from TRL's code."""

import torch
from torch.nn.functional import logsigmoid


def dpo_loss(config, policy, reference):
    """Return the mean loss of pairs.

    Args:
        config: The stage's configuration.
        policy: Chosen and rejected side, each a list of token log-probabilities a completion.
        reference: The same of the reference.
    """
    nll = config.nll_weight * -torch.cat(policy[0]).mean()
    if config.loss == "aot":  # Melnyk et al. 2024, algorithm 1: the margins of policy and reference, each sorted
        margins = [
            torch.stack([c.sum() - r.sum() for c, r in zip(*sides, strict=True)]) for sides in (policy, reference)
        ]
        margin = config.beta * (margins[0].sort().values - margins[1].sort().values)
        return _smoothed(margin, config.label_smoothing).mean() + nll
    if config.loss in ("simpo", "orpo"):
        pairs = zip(*policy, strict=True)
        return torch.stack([OF_A_PAIR[config.loss](config, c.mean(), r.mean()) for c, r in pairs]).mean() + nll
    ratios = torch.stack([torch.stack(_ratios(config, *sides)) for sides in zip(*policy, *reference, strict=True)])
    lengths = torch.tensor([[len(c), len(r)] for c, r in zip(*policy, strict=True)])
    loss = _of_ratios(config, ratios[:, 0], ratios[:, 1], lengths)
    return loss.mean() + nll


def _simpo(config, c, r):
    """Return the loss of a pair of mean log-probabilities: Meng et al. 2024, equation 6."""
    return -(1 / (1 + (-(config.beta * c - config.beta * r - config.simpo_gamma)).exp())).log()


def _orpo(config, c, r):
    """Return the loss of a pair of mean log-probabilities: Hong et al. 2024, equations 3 to 7."""
    odds_c, odds_r = c.exp() / (1 - c.exp()), r.exp() / (1 - r.exp())
    return -c - config.beta * logsigmoid((odds_c / odds_r).log())


OF_A_PAIR = {"simpo": _simpo, "orpo": _orpo}


def _ratios(config, pc, pr, rc, rr):
    """Return the log-ratios of one pair; tokens beyond the shorter answer's length weigh ld_alpha."""
    shared, weight = min(len(pc), len(pr)), 1.0 if config.ld_alpha is None else config.ld_alpha
    sums = [side[:shared].sum() + weight * side[shared:].sum() for side in (pc, pr, rc, rr)]
    return (sums[0], sums[1]) if config.reference_free else (sums[0] - sums[2], sums[1] - sums[3])


def _scores(config, ratio):
    """Return f'(pi / pi_ref) up to a constant (Wang et al. 2023, table 1)."""
    u = ratio.exp()
    if config.f_divergence == "forward_kl":
        return 1 - 1 / u
    if config.f_divergence == "js_divergence":
        return (2 * u / (1 + u)).log()
    if config.f_divergence == "alpha_divergence":
        return (u ** (config.alpha_divergence - 1) - 1) / (config.alpha_divergence - 1)
    return u.log()


def _smoothed(margin, smoothing):
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def _of_ratios(config, chosen, rejected, lengths):
    """Return the loss of every pair from its log-ratios."""
    beta, e, tau = config.beta, config.label_smoothing, config.discopop_tau
    c, r = _scores(config, chosen), _scores(config, rejected)
    per_token = c / lengths[:, 0] - r / lengths[:, 1]
    h = beta * (c - r)
    p, q, mix = torch.sigmoid(h), torch.sigmoid(-h), torch.sigmoid(h / tau)
    losses = {
        "sigmoid": lambda: _smoothed(h, e),  # Rafailov et al. 2023, equation 7; Mitchell 2023 with label smoothing
        "robust": lambda: ((1 - e) * -logsigmoid(h) - e * -logsigmoid(-h)) / (1 - 2 * e),  # Chowdhury et al. 2024, (12)
        "hinge": lambda: torch.relu(1 - h),  # Zhao et al. 2023
        "ipo": lambda: (per_token - 1 / (2 * beta)) ** 2,  # Azar et al. 2023, equation 17, per token
        "sigmoid_norm": lambda: -logsigmoid(beta * per_token),
        "exo_pair": lambda: p * (p / (1 - e)).log() + q * (q / e).log(),  # Ji et al. 2024, equation 16
        "nca_pair": lambda: (  # Chen et al. 2024
            -logsigmoid(beta * chosen) - (logsigmoid(-beta * chosen) + logsigmoid(-beta * rejected)) / 2
        ),
        "bco_pair": lambda: -logsigmoid(beta * chosen) - logsigmoid(-beta * rejected),  # Jung et al. 2024, no baseline
        "sppo_hard": lambda: (chosen - 1 / (2 * beta)) ** 2 + (rejected + 1 / (2 * beta)) ** 2,  # Wu et al. 2024, (4.7)
        "aot_unpaired": lambda: _smoothed(beta * (chosen.sort().values - rejected.sort().values), e),  # Melnyk 2024
        "apo_zero": lambda: 1 - torch.sigmoid(beta * chosen) + torch.sigmoid(beta * rejected),  # D'Oosterlinck, (7)
        "apo_down": lambda: 1 + torch.sigmoid(beta * chosen) - torch.sigmoid(beta * (chosen - rejected)),  # (8)
        "discopop": lambda: (1 - mix) * -logsigmoid(h) + mix * torch.exp(-h),  # Lu et al. 2024, equation 5
    }
    return losses[config.loss]()


def answer_logps(model, rows):
    """Return the log-probability of every answer token, row by row, unpadded."""
    found = []
    for prompt, answer in rows:
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        found.append(logits.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)])
    return found


EVERY_LOSS = [
    {"loss": "sigmoid"},
    {"loss": "sigmoid", "label_smoothing": 0.2},
    {"loss": "robust"},
    {"loss": "robust", "label_smoothing": 0.2},
    {"loss": "hinge"},
    {"loss": "ipo"},
    {"loss": "sigmoid_norm"},
    {"loss": "exo_pair", "label_smoothing": 0.001},
    {"loss": "nca_pair"},
    {"loss": "bco_pair"},
    {"loss": "sppo_hard"},
    {"loss": "aot_unpaired"},
    {"loss": "aot_unpaired", "label_smoothing": 0.2},
    {"loss": "aot"},
    {"loss": "aot", "label_smoothing": 0.2},
    {"loss": "apo_zero"},
    {"loss": "apo_down"},
    {"loss": "discopop"},
    {"loss": "discopop", "discopop_tau": 0.5},
    {"f_divergence": "forward_kl"},
    {"f_divergence": "js_divergence"},
    {"f_divergence": "alpha_divergence"},
    {"f_divergence": "alpha_divergence", "alpha_divergence": 0.3},
    {"loss": "ipo", "f_divergence": "js_divergence"},
    {"ld_alpha": 0.0},
    {"ld_alpha": 0.5},
    {"reference_free": True},
    {"nll_weight": 0.3},
    {"loss": "ipo", "nll_weight": 0.3},
    {"loss": "simpo"},
    {"loss": "simpo", "beta": 2.0, "simpo_gamma": 1.6},
    {"loss": "simpo", "nll_weight": 0.3},
    {"loss": "orpo"},
    {"loss": "simpo", "nll_weight": 0.3, "fast_path": "off"},
    {"loss": "orpo", "fast_path": "off"},
]
"""Configurations of DPO whose loss has a formula above, other than ``beta``."""
