"""Give a version of a model a stage. ``python tools/promote.py --help`` lists the flags."""

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.append(str(Path.cwd()))  # a checker of the user's own may lie there

import click
from rich.console import Console
from rich.text import Text

from llm_engineering.config.yaml.loader import DEFAULT_CONFIG, load_config
from llm_engineering.reports.promotion import Force, PromotionDecision
from tools.command import Command, verbose
from tools.console.terminal import take_over_logging
from tools.environment import set_environment

if TYPE_CHECKING:
    from llm_engineering.config import RunConfig
    from pipelines.promotion import Order

REFUSED = 1


@click.command(cls=Command, interrupted="Interrupted: nothing is promoted.")
@click.argument("version")
@click.argument("stage", metavar="STAGE", type=click.Choice(["staging", "production", "archived"]))
@click.option("--name", metavar="MODEL", help="The model; otherwise `name` of the configuration.")
@click.option(
    "--config",
    "configs",
    multiple=True,
    metavar="NAME_OR_PATH",
    help="Whose `promotion` block decides, instead of configs/training.yaml; repeatable, later wins.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One value, such as promotion.undecided.")
@click.option("--approve", is_flag=True, help="Ask a person in the dashboard before the stage moves.")
@click.option("--force", is_flag=True, help="Promote whatever the gate says, and ask nobody; this is recorded.")
@click.option("--reason", metavar="TEXT", help="Why it is forced; recorded with the name of your account.")
@click.option("--plan", is_flag=True, help="Show what would be decided; move nothing.")
def main(
    version: str,
    stage: str,
    name: str | None,
    configs: tuple[str, ...],
    overrides: tuple[str, ...],
    approve: bool,
    force: bool,
    reason: str | None,
    plan: bool,
) -> None:
    """Give VERSION of a model the STAGE, if it is no worse than the version that holds it.

    VERSION is a number, a stage or `latest`; STAGE is staging, production or archived. docs/promotion.md says how it is
    decided. The exit code is 0 where the stage was given, 1 where it was not.
    """
    if force != (reason is not None):
        raise click.UsageError("--force and --reason belong together: say why the gate is overruled.")
    if reason is not None and not reason.strip():
        raise click.UsageError("--reason is empty: say why the gate is overruled.")
    if force and approve:
        raise click.UsageError("--force asks nobody and --approve asks a person: say one of them.")
    config = load_config(configs or [DEFAULT_CONFIG], overrides)
    set_environment(config)
    forced = Force(user=getpass.getuser(), reason=reason) if reason is not None else None
    raise SystemExit(_go(config, version, stage, name or config.name, forced, approve=approve, plan=plan))


def _go(
    config: "RunConfig",
    version: str,
    stage: str,
    name: str,
    force: Force | None,
    *,
    approve: bool,
    plan: bool,
) -> int:
    from pipelines.store import bury_dead_runs, open_store

    console = Console(highlight=False)
    if not verbose():
        take_over_logging(console)
    open_store()
    bury_dead_runs()
    from pipelines.promotion import Order, carry_out
    from steps.runtime.registry import gate, model_version

    found = model_version(name, version)
    given = {"approval": approve or config.promotion.approval}
    rules = config.promotion.model_copy(update=given | ({} if stage == "archived" else {"stage": stage}))
    order = Order(found, stage, rules, force)
    if found.stage == stage:
        console.print(f"Version {found.name} of {name} holds {stage} already.", markup=False)
        return 0
    if plan:
        _show(order, gate(found, stage, rules, force), console, planned=True)
        return 0
    decision = carry_out(order, lambda run: console.print(Text(f"run  {run}", style="dim")))
    return _show(order, decision, console)


def _show(order: "Order", decision: PromotionDecision, console: Console, *, planned: bool = False) -> int:
    """Print the checks and what was decided, and return the exit code."""
    from llm_engineering.plain_text import plain
    from llm_engineering.reporting.run_text import checks_table

    if decision.checks:
        console.print(checks_table(decision))
    for note in decision.notes:
        console.print(plain(note), style="dim", markup=False)
    given = decision.promoted is not None or order.stage == "archived"
    does = ("would be" if planned else "is") if given else ("would not be" if planned else "is not")
    verb = "archived" if order.stage == "archived" else f"promoted to {order.stage}"
    subject = f"Version {order.version.name} of {order.version.model.name}"
    asked = ", once a person has approved it" if planned and given and order.rules.approval and not order.force else ""
    console.print(f"{subject} {does} {verb}{asked}.", style="bold", markup=False)
    console.print(plain(decision.reason), markup=False)
    return 0 if given else REFUSED


if __name__ == "__main__":
    main()
