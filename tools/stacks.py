"""Stacks of ZenML that runs are sent to: list, describe, register, check, delete. ``--help`` lists the commands."""

import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_engineering.config.run import RunConfig
from llm_engineering.config.stacks import OpenStack, read_stack, shipped_stacks
from llm_engineering.config.yaml.loader import DEFAULT_CONFIG, load_config
from llm_engineering.errors import ConfigError
from tools.command import Group, verbose
from tools.console.terminal import take_over_logging
from tools.environment import set_environment
from tools.findings import show, show_findings

if TYPE_CHECKING:
    from pipelines.stacks.registration import Action, Order

STYLES = {"create": "green", "update": "yellow", "keep": "dim", "delete": "red"}
console = Console(highlight=False)
surely = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group(cls=Group)
def main() -> None:
    """Make, examine and remove the stacks that `tools/run.py --stack NAME` sends runs to.

    docs/stacks.md says what each needs. A stack is a file of configs/stacks, or one of your own like them.
    """
    set_environment(RunConfig())
    os.environ["ZENML_LOGGING_VERBOSITY"] = "ERROR"


def _open_store() -> None:
    from pipelines.store import open_store

    if not verbose():
        take_over_logging(console)
    open_store()


@main.command("list")
def list_stacks() -> None:
    """List the stacks that are shipped, and which of them ZenML has."""
    _open_store()
    from pipelines.stacks.registration import registered_names

    registered = registered_names()
    table = Table.grid(padding=(0, 2, 0, 0))
    for name in shipped_stacks():
        table.add_row(name, "registered" if name in registered else "", Text(read_stack(name).about, style="dim"))
    for name in sorted(registered - set(shipped_stacks())):
        table.add_row(name, "registered", Text("from a file of your own", style="dim"))
    console.print(table)


@main.command()
@click.argument("stack")
def describe(stack: str) -> None:
    """Show what STACK is made of, what its steps get, and which values it asks for."""
    _open_store()
    from pipelines.stacks.registration import known_values

    found = read_stack(stack)
    _describe(found, known_values(found.name))


def _describe(found: OpenStack, values: Mapping[str, str]) -> None:
    config = found.shown(values)
    console.print(Text(f"{found.name}: {config.about}", style="bold"))
    console.print(
        _table({kind: f"{each.flavor}  {_plain(each.configuration)}" for kind, each in config.components.items()})
    )
    console.print(Text("\nMachines", style="bold"))
    for name, machine in (("GPU steps", config.gpu), ("other steps", config.cpu)):
        facts = {**machine.resources, **machine.orchestrator, **machine.step_operator}
        console.print(_table({name: f"{machine.about}  {_plain(facts)}"}))
    retry = config.retry
    tried = f"{retry.max_retries} times, after {retry.delay} s and then × {retry.backoff}" if retry else "never"
    environment = ", ".join(f"{name}={value}" for name, value in config.environment.items())
    rest = {
        "image": config.image or "none",
        "again": tried,
        "variables": environment,
        "secrets": ", ".join(config.secrets),
    }
    console.print(_table({name: text for name, text in rest.items() if text}))
    console.print(Text("\nValues", style="bold"))
    console.print(_table({f"{name}": _asked(name, found, values) for name in found.placeholders}))


def _asked(name: str, found: OpenStack, values: Mapping[str, str]) -> str:
    each = found.placeholders[name]
    source = f" (${each.variable})" if each.variable else ""
    known = "secret, from the environment alone" if each.secret else values.get(name) or each.default
    return f"{each.about}{source}{f': {known}' if known else ''}"


def _table(facts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=18)
    table.add_column(overflow="fold")
    for name, text in facts.items():
        table.add_row(f"  {name}", Text(text))
    return table


def _plain(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=False) if facts else ""


@main.command()
@click.argument("stack")
@click.option("--set", "said", multiple=True, metavar="NAME=VALUE", help="A value that the stack asks for; repeatable.")
@click.option("--ambient", is_flag=True, help="No service connector: every step uses the credentials that it finds.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@surely
def register(stack: str, said: Sequence[str], ambient: bool, dry_run: bool, yes: bool) -> None:
    """Make STACK in ZenML, or bring it up to date with its file; a second time there is nothing to do."""
    _open_store()
    from pipelines.stacks import registration

    order = _order(read_stack(stack), said, ambient=ambient, asks=not (dry_run or yes) and sys.stdin.isatty())
    if not dry_run:
        registration.require_server(order.name)
    actions = registration.planned(order)
    _show(actions)
    if dry_run:
        console.print("Nothing was done.")
        return
    if all(action.does == "keep" for action in actions):
        console.print(f"The stack {order.name} is as its file says.")
        return
    if not yes:
        click.confirm("Go on?", abort=True)
    registration.register(order)
    console.print(f"The stack {order.name} is registered. `python tools/stacks.py check {order.name}` examines it.")


def _order(found: OpenStack, said: Sequence[str], *, ambient: bool, asks: bool) -> "Order":
    """Return what is to be registered, once every value is known.

    Raises:
        ConfigError: A value is missing, or is none of the stack's.
    """
    from pipelines.stacks.registration import Order, Registered, known_values

    given = dict(map(_pair, said))
    for name in given:
        if name not in found.placeholders or found.placeholders[name].secret:
            raise ConfigError(_no_such_value(name, found))
    values = found.known_values(given, known_values(found.name), environment=os.environ)
    wanted = [name for name, each in found.placeholders.items() if not (each.secret and ambient)]
    missing = [name for name in wanted if not values.get(name) and found.placeholders[name].default is None]
    for name in [name for name in missing if asks]:
        each = found.placeholders[name]
        values[name] = click.prompt(f"{name}: {each.about}", hide_input=each.secret)
        missing.remove(name)
    if missing:
        listed = "; ".join(f"{name}, {_asked(name, found, {})}" for name in missing)
        raise ConfigError(
            f"The stack {found.name} needs values that nobody gave: {listed}. Set the variables or use --set; "
            "--ambient does without the connector's credentials."
        )
    public = {name: value for name, value in values.items() if not found.placeholders[name].secret}
    config = found.shown(public)
    connector = None if ambient or config.connector is None else found.fill(values).connector
    return Order(found.name, Registered(values=public, config=config), connector.configuration if connector else None)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"--set {text!r} needs the form NAME=VALUE, such as --set bucket=my-bucket.")
    return name.strip(), value.strip()


def _no_such_value(name: str, found: OpenStack) -> str:
    if name in found.placeholders:
        return f"--set {name} would show a secret to whoever sees this line. Set ${found.placeholders[name].variable}."
    return f"The stack {found.name} has no value {name!r}; it asks for {', '.join(found.placeholders)}."


def _show(actions: "Sequence[Action]") -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for action in actions:
        table.add_row(
            Text(action.does, STYLES[action.does]), action.kind, action.name, Text(_plain(action.facts), "dim")
        )
    console.print(table)


@main.command()
@click.argument("stack")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
def check(stack: str, as_json: bool) -> None:
    """Examine a registered STACK: server, packages, image, secrets, artifact store, platform.

    The exit code is 1 if there is a problem. The artifact store is written to, one file, which is removed.
    """
    _open_store()
    from pipelines.stacks.checks import checks_of
    from pipelines.stacks.registration import registered_config

    problems = show_findings(checks_of(stack, *registered_config(stack)), console, as_json=as_json)
    raise SystemExit(1 if problems else 0)


@main.command()
@click.argument("stack")
@surely
def delete(stack: str, yes: bool) -> None:
    """Remove STACK from ZenML, and components that no other stack uses; buckets, images and runs stay."""
    _open_store()
    from pipelines.stacks import registration

    registration.registered_config(stack)
    if not yes:
        click.confirm(f"Remove the stack {stack} from ZenML?", abort=True)
    _show(registration.delete(stack))


@main.command()
@click.argument("stack")
@click.option("--config", "configs", multiple=True, metavar="FILE", help="The run's configuration; repeatable.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One of its values; repeatable.")
@click.option("--rehearse", "small", is_flag=True, help="Run every step in small, on a tiny random model.")
@click.option("--summary", metavar="FILE", help="Write the run's summary as JSON.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep what was submitted and all logs in a new folder.")
def emulate(
    stack: str,
    configs: Sequence[str],
    overrides: Sequence[str],
    small: bool,
    summary: str | None,
    folder: Path | None,
) -> None:
    """Submit a training to stand-ins of STACK on this machine, run what was submitted, and say whether all is well.

    Nothing leaves this machine. The exit code is 1 if there is a problem. docs/emulating_stacks.md says more.
    """
    flags = [*(["--rehearse"] if small else []), *(["--summary", summary] if summary else [])]
    flags += [word for name in configs for word in ("--config", name)]
    flags += [word for text in overrides for word in ("--set", text)]
    kept = folder or Path(tempfile.gettempdir()) / f"emulation-{secrets.token_hex(8)}"
    if not verbose():
        take_over_logging(console)
    from tools.stack_rehearsal.emulation import emulate as emulated

    load_config(configs or [DEFAULT_CONFIG], overrides)  # a mistake is said before any server starts
    problems = 0
    for finding in emulated(read_stack(stack), ["--run-training", *flags], kept):
        show(finding, console)
        problems += finding.level == "problem"
    if folder is None and not problems:
        shutil.rmtree(kept)
    else:
        console.print(
            f"What was submitted, and the logs of all jobs, lie in {kept}, which holds secrets.", markup=False
        )
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
