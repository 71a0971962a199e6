"""When a training curve is a verdict, and what it leads to."""

from typing import Annotated, Literal

from pydantic import Field

from llm_engineering.config.block import Block, PositiveFloat, PositiveInt, Share


class PlateauWatch(Block):
    """SFT's loss stands still early, while the learning rate is high (sign: Axolotl guide; numbers: ours)."""

    fall: Share = 0.01
    """Less of its value than this the mean loss falls from one half of the stretch to the other."""
    converged: Share = 0.5
    """A loss below this share of its start has converged: it may stand still."""


class UnstableWatch(Block):
    """The loss rises again, or jumps (sign: Axolotl guide; numbers: ours)."""

    rise: PositiveFloat = 0.1
    """How far the smoothed loss stands above its lowest, as a share of the loss at the start; more than noise, too."""
    spike: PositiveFloat = 1.0
    """How far a logged loss jumps above the smoothed one, as a share of the loss at the start."""
    spikes: PositiveInt = 3
    """So many jumps within the last 10 logged losses."""


class OverfittingWatch(Block):
    """The held-out loss rises while the training loss does not (sign: Axolotl guide; numbers: ours)."""

    rise: PositiveFloat = 0.05
    """How far both of the last two held-out losses stand above the lowest, as a share of it."""
    least: Annotated[float, Field(ge=0)] = 0.02
    """And at least so far, in the loss's own unit (nats for SFT): a share of next to nothing is nothing."""


class GradientWatch(Block):
    """The gradient norm, before clipping, leaves its bounds for long."""

    high: PositiveFloat = 10.0
    """The median of the last ``watch.min_points`` logged norms is above this; the Axolotl guide says 2, others 10."""
    low: Annotated[float, Field(ge=0)] = 0.1
    """A median below this is no verdict, but evidence where a loss stands still; the Axolotl guide: 0.5, others 0.1."""


class DisplacedWatch(Block):
    """Chosen and rejected answers become less likely, and generations worse (sign: AgileRL tutorial; numbers: ours)."""

    nats: PositiveFloat = 5.0
    """How far both mean log-ratios lie below zero, in nats an answer."""
    drop: Share = 0.1
    """How far right or preferred generated answers fall below their best, absolute; not asked where none are judged."""
    nll_weight: PositiveFloat = 1.0
    """``dpo.nll_weight`` of a restart (``watch.on.displaced: restart_with_nll``); the AgileRL tutorial's."""


class CollapsedWatch(Block):
    """Displaced, with a loss near 0 or broken generations (sign: AgileRL tutorial; numbers: ours)."""

    loss: Share = 0.05
    """The smoothed loss is below this share of its start; asked only where no generated answers are judged."""
    nats: PositiveFloat = 5.0
    """How far both mean log-ratios lie below zero, in nats an answer."""
    broken: Share = 0.5
    """Right or preferred generated answers fall to this share of their best or below."""


class TrivialWatch(Block):
    """The pairs are told apart at once (sign: Axolotl guide, accuracy 100 % or a loss near 0; numbers: ours)."""

    accuracy: Share = 0.99
    """The reward accuracy reaches this, and keeps it for ``watch.min_points`` logged points."""
    loss: Share = 0.05
    """Or the loss falls below this share of its start, for as long."""
    early: Share = 0.25
    """Within this share of the planned steps."""


class NoSignalWatch(Block):
    """Reward accuracy stays at chance and the margin at 0 (sign: users' reports of stuck rewards; numbers: ours)."""

    accuracy: Share = 0.55
    """The mean reward accuracy is no higher; chance is 0.5, and a tie counts as wrong."""
    margin: Annotated[float, Field(ge=0)] = 0.02
    """The mean reward margin is no higher, in units of the reward (beta times nats)."""
    after: Share = 0.3
    """It is not asked before this share of the planned steps is made."""


class LogRatioWatch(Block):
    """Answers are far more or less likely than under the reference; this is no KL (number: ours)."""

    nats: PositiveFloat = 100.0
    """Size of a smoothed mean log-ratio, in nats an answer."""


class KLWatch(Block):
    """The KL of the DPO model from the SFT model, as the evaluation measures it; it only warns."""

    nats: PositiveFloat = 10.0
    """Nats an answer; the Axolotl guide's."""


WarnOrStop = Literal["warn", "stop"]


class WatchActions(Block):
    """What a verdict leads to: a warning, or the end of the stage; docs/watch.md says with which weights."""

    plateau: WarnOrStop = "warn"
    """SFT only."""
    unstable: WarnOrStop = "warn"
    """Both stages."""
    overfitting: WarnOrStop = "warn"
    """Both stages."""
    exploding_gradients: WarnOrStop = "warn"
    """Both stages."""
    displaced: Literal["warn", "stop", "restart_with_nll"] = "warn"
    """DPO only. ``restart_with_nll``: once, from the same SFT model, with ``watch.displaced.nll_weight``."""
    collapsed: WarnOrStop = "warn"
    """DPO only."""
    trivial_pairs: WarnOrStop = "warn"
    """DPO only."""
    no_signal: WarnOrStop = "warn"
    """DPO only."""
    log_ratio_high: WarnOrStop = "warn"
    """DPO only."""


SFT_VERDICTS = ("plateau", "unstable", "overfitting", "exploding_gradients")
DPO_VERDICTS = (
    "unstable",
    "overfitting",
    "exploding_gradients",
    "displaced",
    "collapsed",
    "trivial_pairs",
    "no_signal",
    "log_ratio_high",
)


class WatchConfig(Block):
    """From when on a training curve is a verdict, and what the verdict leads to; docs/watch.md describes each."""

    smoothing: PositiveInt = 5
    """Logged points that the exponential moving average spans; it weighs the newest with 2 / (span + 1)."""
    min_points: Annotated[int, Field(ge=3)] = 5
    """Logged points below which a series is not judged."""
    on: WatchActions = WatchActions()
    plateau: PlateauWatch = PlateauWatch()
    unstable: UnstableWatch = UnstableWatch()
    overfitting: OverfittingWatch = OverfittingWatch()
    exploding_gradients: GradientWatch = GradientWatch()
    displaced: DisplacedWatch = DisplacedWatch()
    collapsed: CollapsedWatch = CollapsedWatch()
    trivial_pairs: TrivialWatch = TrivialWatch()
    no_signal: NoSignalWatch = NoSignalWatch()
    log_ratio_high: LogRatioWatch = LogRatioWatch()
    kl_high: KLWatch = KLWatch()

    def acting(self, stage: Literal["sft", "dpo"]) -> "WatchConfig":
        """Return what of the watch can change a stage's result: the verdicts that do more than warn.

        All else is at its default, so that a threshold which only warns does not train anew.
        """
        verdicts = SFT_VERDICTS if stage == "sft" else DPO_VERDICTS
        acting = {name for name in verdicts if getattr(self.on, name) != "warn"}
        if not acting:
            return WatchConfig()
        kept = self.model_dump(include={"smoothing", "min_points", *acting})
        return WatchConfig.model_validate({**kept, "on": self.on.model_dump(include=acting)})
