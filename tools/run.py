"""Run a pipeline: a training, a comparison, a sweep ... ``python tools/run.py --help`` lists the flags."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.append(str(Path.cwd()))  # a checker of the user's own may lie there

import click

from llm_engineering.config.yaml.loader import DEFAULT_CONFIG, load_config
from llm_engineering.errors import PipelineError
from llm_engineering.models.backends import pick_backend
from tools.command import Command, say, verbose, version_option, write
from tools.console.planned import header, show_estimates, show_plan
from tools.console.terminal import RunConsole, facts_table, open_console, take_over_logging
from tools.environment import set_environment

if TYPE_CHECKING:
    from zenml.models import PipelineRunResponse

    from llm_engineering.config import RunConfig
    from llm_engineering.reporting.bundle import RunReports
    from llm_engineering.reports.promotion import PromotionDecision
    from pipelines.launching.prepare import Launch
    from pipelines.launching.rehearsal import Prepared

How = Literal["run", "plan", "rehearse"]
SEVERAL = ("comparison", "sweep")
"""Jobs that make more models than one training does."""
JOBS = {
    "training": "SFT, merge, DPO, merge, evaluate, promote.",
    "sft": "SFT, merge, evaluate, promote.",
    "dpo": "DPO on model.base, a model that is fine-tuned already.",
    "evaluation": "Measure the newest models of `name` again, or those that --model or evaluation.models name.",
    "comparison": "Base, SFT, DPO, their combinations and controls, measured side by side.",
    "sweep": "Try the values of `sweep`, and promote the best run if it may be.",
}
EXAMPLES = """\b
Examples:
  python tools/run.py --run-training
  python tools/run.py --run-training --config mine.yaml --set dpo.beta=0.2 --plan
  python tools/run.py --run-training --config mine.yaml --quiet --summary summary.json
  python tools/run.py --run-dpo --config mine.yaml --set model.base=NAME@staging

README.md tells more; docs/configuration.md lists every key; `python tools/doctor.py` examines the machine.
"""
GROUPS = {
    "What to run, one of": ["jobs"],
    "On what": ["configs", "overrides", "models"],
    "How": ["stack", "no_cache", "plan", "rehearse"],
    "What you see": ["summary", "quiet", "verbose"],
}


@dataclass
class Request:
    """What one command line asks for."""

    job: Any
    config: "RunConfig"
    console: RunConsole
    cache: bool
    summary: Path | None = None
    names: list[str] = field(default_factory=list)
    """Those of the runs that have begun."""


def _jobs(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options of all jobs; they share a parameter, so that two of them are noticed."""
    for job, text in reversed(JOBS.items()):
        function = click.option(f"--run-{job}", "jobs", flag_value=job, multiple=True, help=text)(function)
    return function


@click.command(
    cls=Command,
    groups=GROUPS,
    epilog=EXAMPLES,
    interrupted="Interrupted: the run is marked failed; start it again to go on from the last checkpoint.",
)
@_jobs
@click.option(
    "--config",
    "configs",
    multiple=True,
    metavar="NAME_OR_PATH",
    help="A YAML file or the name of a shipped one, instead of configs/training.yaml; repeatable, later wins.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One value, such as dpo.beta=0.2.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=WHERE",
    help="With --run-evaluation: a folder, hub id or NAME@VERSION_OR_STAGE to measure; repeatable.",
)
@click.option("--stack", metavar="NAME", help="Send the run to a stack that `tools/stacks.py register` made.")
@click.option("--no-cache", is_flag=True, help="Run every step, even where an earlier result would do.")
@click.option("--plan", is_flag=True, help="Show what is cached and what would run, on how much; train nothing.")
@click.option("--rehearse", is_flag=True, help="Run every step in small: your data, a tiny random model; and estimate.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), help="Write the run's numbers as JSON.")
@click.option("--quiet", is_flag=True, help="Show errors, what was decided, and where things lie; nothing else.")
@version_option
def main(
    jobs: tuple[str, ...],
    configs: tuple[str, ...],
    overrides: tuple[str, ...],
    models: tuple[str, ...],
    stack: str | None,
    no_cache: bool,
    plan: bool,
    rehearse: bool,
    summary: Path | None,
    quiet: bool,
) -> None:
    """Turn a base language model into an aligned one, and prove what was done."""
    job, how = _asked(jobs, plan=plan, rehearse=rehearse)
    if models and job != "evaluation":
        raise click.UsageError("--model names what --run-evaluation measures; model.base is what training starts from.")
    _require_one_voice(quiet=quiet, plan=plan)
    console = click.get_current_context().with_resource(open_console(quiet=quiet, verbose=verbose()))
    config = load_config(configs or [DEFAULT_CONFIG], [*overrides, *map(_as_setting, models)])
    set_environment(config)
    if job != "evaluation" and stack is None:  # elsewhere the step does it
        pick_backend(config.model.backend).start()  # before anything that it patches is imported
    if summary is not None:  # an earlier run's would pass for this one's
        write(summary, "", "--summary")
        summary.unlink()
    raise SystemExit(_go(Request(job, config, console, not no_cache, summary), how, stack))


def _asked(jobs: tuple[str, ...], *, plan: bool, rehearse: bool) -> tuple[str, How]:
    """Return the one job, and how it is to be done.

    Raises:
        UsageError: The flags do not say one thing.
    """
    if len(jobs) != 1:
        *flags, last = (f"--run-{job}" for job in JOBS)
        raise click.UsageError(f"Say one thing to run: {', '.join(flags)} or {last}.")
    if plan and rehearse:
        raise click.UsageError("--plan trains nothing and --rehearse trains in small: say one of them.")
    if rehearse and jobs == ("evaluation",):
        raise click.UsageError("--run-evaluation measures models that are there: there is nothing to rehearse.")
    if rehearse and jobs[0] in SEVERAL:
        raise click.UsageError(f"--run-{jobs[0]} has no rehearsal of its own: rehearse --run-training.")
    return jobs[0], "plan" if plan else "rehearse" if rehearse else "run"


def _as_setting(model: str) -> str:
    """Return ``--model NAME=WHERE`` as a ``--set``.

    Raises:
        UsageError: It has another form.
    """
    name, equals, where = model.partition("=")
    if not (name and equals and where) or "." in name:
        raise click.UsageError(
            f"--model {model!r} needs the form NAME=WHERE, no dot in the name, such as --model mine=path/to/folder."
        )
    return f"evaluation.models.{name}={json.dumps(where)}"  # quoted: a folder may be called 2


def _require_one_voice(*, quiet: bool, plan: bool) -> None:
    """Refuse to be asked for silence and for words at once.

    Raises:
        UsageError: That is asked.
    """
    for asked, flag in ((verbose(), "--verbose"), (plan, "--plan")):
        if quiet and asked:
            raise click.UsageError(f"--quiet and {flag} ask for opposite things: say one of them.")


def _go(request: Request, how: How, stack: str | None) -> int:
    """Do the job and return the exit code."""
    from pipelines.store import bury_dead_runs, open_store

    console = request.console
    if not verbose():
        take_over_logging(console)
    open_store()
    for name in bury_dead_runs():
        console.print(f"The run {name} died; it is marked failed now, and its finished steps are used.", markup=False)
    try:
        return _do(request, how, stack)
    except BaseException as error:
        if request.summary is not None:
            _write_failure(request, error)
        raise


def _do(request: Request, how: How, stack: str | None) -> int:
    from pipelines.launching.prepare import prepare
    from pipelines.launching.rehearsal import prepare_rehearsal
    from pipelines.stacks.target import aim

    target = aim(stack, request.job) if stack else None
    if how == "rehearse":
        _rehearse(request, prepare_rehearsal(request.job, request.config, target))
        return 0
    launch = prepare(request.job, request.config, target)
    request.console.print(facts_table(header(launch)))
    _warn(launch.warnings, request.console)
    if how == "plan":
        show_plan(launch, request.console, cache=request.cache)
    elif request.job in SEVERAL:
        return _run_several(request, launch)
    else:
        _run(request, launch)
    return 0


def _warn(warnings: Sequence[str], console: RunConsole) -> None:
    for warning in warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False)


def _rehearse(request: Request, rehearsal: "Prepared") -> None:
    """Run every step in small, and show what the real run would need."""
    from llm_engineering.reporting.run_text import places
    from pipelines.launching.rehearsal import estimate_rehearsed

    console, launch = request.console, rehearsal.launch
    model = f"tiny and random, built like {request.config.model.base} · {launch.config.adapter.words}"
    console.print(facts_table(header(launch) | {"model": model}))
    _warn(rehearsal.warnings, console)
    for sentence in rehearsal.changes:
        console.print(f"  {sentence}", style="yellow", markup=False)
    reports = _reports(request, launch)
    run = reports.run
    steps = [*run.step_seconds, *run.cached_steps]
    console.speak()
    console.print(f"\nRehearsed: all {len(steps)} steps passed in {run.seconds:.0f} s.", style="bold green")
    for line in places(reports):
        console.print(line, soft_wrap=True)
    if reports.dataset is not None:
        show_estimates(estimate_rehearsed(rehearsal, reports.dataset), console)
        for name in rehearsal.unknown:
            console.print(f"  {name}: how many rows it has is not known; those rehearsed are counted.", markup=False)
    _write_summary(request, reports)


def _run(request: Request, launch: "Launch") -> "RunReports":
    """Run the pipeline, and show, write and return what came out."""
    from llm_engineering.reporting.run_text import closing, decided, places

    console = request.console
    reports = _reports(request, launch)
    console.speak()
    console.print(*([decided(reports)] if console.asked_quiet else [closing(reports), ""]))
    for line in places(reports):
        console.print(line, soft_wrap=True)
    console.print("dashboard         make dashboard", style="dim")
    _write_summary(request, reports)
    return reports


def _run_several(request: Request, launch: "Launch") -> int:
    """Run a comparison or a sweep, show and write what came out, and promote a sweep's best run if it may be."""
    from llm_engineering.reporting.bundle import RunReports
    from llm_engineering.reporting.run_text import comparison_closing, places
    from llm_engineering.reporting.summary import build_comparison_summary
    from pipelines.launching.collect import compared

    console = request.console
    report, facts = compared(_started(request, launch))
    console.speak()
    console.print(comparison_closing(report), "")
    for line in places(RunReports(run=facts)):
        console.print(line, soft_wrap=True)
    code = int(any(variant.error for variant in report.variants))
    decision = None
    if report.kind == "sweep" and report.best is not None:
        decision, failed = _promote_best(launch.config, report.best, console)
        code = failed or code
    if request.summary is not None:
        _write_json(build_comparison_summary(report, facts, decision), request.summary)
    return code


def _promote_best(config: "RunConfig", best: str, console: RunConsole) -> "tuple[PromotionDecision | None, int]":
    """Run the training with the best run's settings, and return its decision and an exit code.

    All of its trainings are cached: it measures the models as every training's are, and asks the same gate.
    """
    from llm_engineering.config.sweeping import sweep_runs
    from pipelines.launching.prepare import prepare
    from pipelines.sweep import job_of

    chosen = next(run.config for run in sweep_runs(config) if run.name == best)
    console.print(f"\nThe best run goes on to promotion: {best}", style="bold", markup=False)
    try:
        launch = prepare(job_of(chosen), chosen)
        return _run(Request(launch.job, chosen, console, cache=True), launch).decision, 0
    except PipelineError as error:
        return None, say(error)


def _reports(request: Request, launch: "Launch") -> "RunReports":
    """Run the pipeline and return its reports."""
    from pipelines.launching.collect import collect

    return collect(_started(request, launch))


def _started(request: Request, launch: "Launch") -> "PipelineRunResponse":
    """Run the pipeline, show its progress and return the run."""
    from pipelines.launching.follow import number_of_steps
    from pipelines.launching.start import start

    def started(name: str) -> None:
        request.names.append(name)
        request.console.print(f"[dim]name[/dim]             {name}", soft_wrap=True)

    with request.console.progress(lambda: number_of_steps(request.names[-1])):
        return start(launch, cache=request.cache, started=started)


def _write_failure(request: Request, error: BaseException) -> None:
    """Write what there is of a run that failed, or was refused before it began."""
    from zenml.client import Client

    from llm_engineering.reporting.bundle import RunFacts, RunReports
    from pipelines.launching.collect import collect

    config, names = request.config, request.names
    text = str(error) or type(error).__name__
    found = Client().list_pipeline_runs(name=names[0], size=1, hydrate=True).items if names else []
    refused = RunFacts(name=config.name, id="", pipeline=request.job, status="failed", seconds=0.0, error=text)
    _write_summary(request, collect(found[0], text) if found else RunReports(run=refused))


def _write_summary(request: Request, reports: "RunReports") -> None:
    from llm_engineering.reporting.summary import build_summary

    if request.summary is not None:
        _write_json(build_summary(reports), request.summary)


def _write_json(found: dict[str, object], summary: Path) -> None:
    summary.write_text(json.dumps(found, indent=2, allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main()
