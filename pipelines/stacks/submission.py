"""What would be sent to a stack: image, entry points, machines, environment, and what it would cost."""

from collections.abc import Iterable
from dataclasses import dataclass

from zenml.entrypoints.step_entrypoint_configuration import StepEntrypointConfiguration
from zenml.orchestrators.utils import get_config_environment_vars

from llm_engineering.config.stacks import Machine
from llm_engineering.planning.estimate import Estimate, Range
from pipelines.stacks.settings import gpus_asked
from pipelines.stacks.target import Target
from steps.runtime.traits import gpu_steps

HIDDEN = "••••••"
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL")


@dataclass(frozen=True)
class Submission:
    """What a stack would be sent."""

    image: str
    entry_point: str
    """The command of a step's container; the last two words name the step."""
    machines: dict[str, list[str]]
    """Steps by what they run on, in words."""
    environment: dict[str, str]
    """Variables of every step, those that may be secret hidden."""
    secrets: list[str]
    """ZenML secrets whose values become variables where the step runs, and are not sent."""
    retry: str
    cost: str


def what_is_sent(target: Target, steps: Iterable[str], estimates: list[Estimate]) -> Submission:
    """Return what would be sent to a stack for a pipeline of these steps."""
    config = target.config
    elsewhere = "the machine that submits" if config.orchestrator.flavor == "local" else ""
    machines: dict[str, list[str]] = {}
    on_gpu = gpu_steps()
    for name in steps:
        machine = config.gpu if name in on_gpu else config.cpu
        machines.setdefault(_words(target, machine), []).append(name)
    plain, hidden = get_config_environment_vars()
    environment = {**plain, **dict.fromkeys(hidden, HIDDEN), **config.environment}
    retry = config.retry
    return Submission(
        image=config.image or elsewhere,
        entry_point=" ".join([*StepEntrypointConfiguration.get_entrypoint_command(), "…", "--step_name", "train_sft"]),
        machines=machines,
        environment={name: HIDDEN if _is_secret(name) else value for name, value in sorted(environment.items())},
        secrets=config.secrets,
        retry=f"{retry.max_retries} times, after {retry.delay} s and then × {retry.backoff}" if retry else "never",
        cost=cost_drivers(config.gpu, estimates),
    )


def cost_drivers(machine: Machine, estimates: list[Estimate]) -> str:
    """Return the GPU machine times the hours that training is estimated to take, and the price where it is known."""
    if not estimates:
        return f"{machine.about}, for as long as the GPU steps take; nothing is trained"
    seconds = sum((stage.seconds for stage in estimates[-1].stages.values()), Range(0, 0))
    low, high = seconds.low / 3600, seconds.high / 3600
    words = f"{machine.about} × {low:.2g} to {high:.2g} h of training, estimated for {estimates[-1].machine.name}"
    if machine.price_per_hour is None:
        return f"{words}; register the stack with --set price=... to see an amount"
    price = machine.price_per_hour
    return f"{words}, × {price:g} an hour = {low * price:.2f} to {high * price:.2f}"


def _words(target: Target, machine: Machine) -> str:
    if machine is not target.config.gpu or not machine.gpus:
        return machine.about
    asked = gpus_asked(target.config)
    return f"{machine.about} ({'GPUs by its type' if asked is None else f'asks for {asked} GPUs'})"


def _is_secret(name: str) -> bool:
    return any(part in name.upper() for part in _SECRET)
