"""Run a pipeline: a training, a comparison, a sweep ... ``python tools/run.py --help`` lists the flags."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.append(str(Path.cwd()))  # a checker of the user's own may lie there

import click

from llm_engineering.config.yaml.loader import DEFAULT_CONFIG, load_config
from llm_engineering.errors import PipelineError, StoreError, TrainingError, no_space
from llm_engineering.models.backends import pick_backend
from tools.command import Command, print_error, version_option
from tools.console.terminal import RunConsole, facts_table, open_console, take_over_logging
from tools.environment import set_environment

if TYPE_CHECKING:
    from zenml.models import PipelineRunResponse

    from llm_engineering.config import RunConfig
    from llm_engineering.planning.estimate import Estimate
    from llm_engineering.reporting.bundle import RunReports
    from llm_engineering.reports.promotion import PromotionDecision
    from pipelines.launching.plan import Plan
    from pipelines.launching.prepare import Launch
    from pipelines.stacks.target import Target

INTERRUPTED = 130
How = Literal["run", "plan", "rehearse"]
SEVERAL = ("comparison", "sweep")
"""Jobs that make more models than one training does."""


def _job(flag: str, job: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option of one job; all share a parameter, so that two of them are noticed."""
    return click.option(flag, "jobs", flag_value=job, multiple=True, help=text)


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


@click.command(
    cls=Command,
    groups=GROUPS,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--run-training", "jobs", flag_value="training", multiple=True, help="SFT, merge, DPO, merge, evaluate, promote."
)
@_job("--run-sft", "sft", "SFT, merge, evaluate, promote.")
@click.option(
    "--run-dpo", "jobs", flag_value="dpo", multiple=True, help="DPO on model.base, a model that is fine-tuned already."
)
@click.option(
    "--run-evaluation",
    "jobs",
    flag_value="evaluation",
    multiple=True,
    help="Measure the newest models of `name` again, or those that --model or evaluation.models name.",
)
@_job("--run-comparison", "comparison", "Base, SFT, DPO, their combinations and controls, measured side by side.")
@_job("--run-sweep", "sweep", "Try the values of `sweep`, and promote the best run if it may be.")
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
@click.option("--verbose", is_flag=True, help="Show what the libraries log, and tracebacks.")
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
    verbose: bool,
) -> None:
    """Turn a base language model into an aligned one, and prove what was done."""
    job, how = _asked(jobs, plan=plan, rehearse=rehearse)
    if models and job != "evaluation":
        raise click.UsageError("--model names what --run-evaluation measures; model.base is what training starts from.")
    _require_one_voice(quiet=quiet, verbose=verbose, plan=plan)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not verbose:
        sys.excepthook = _say_unexpected
    console = click.get_current_context().with_resource(open_console(quiet=quiet, verbose=verbose))
    try:
        config = load_config(configs or [DEFAULT_CONFIG], [*overrides, *map(_as_setting, models)])
        set_environment(config)
        if job != "evaluation" and stack is None:  # elsewhere the step does it
            pick_backend(config.model.backend).start()  # before anything that it patches is imported
        if summary is not None:
            _require_writable(summary)
        code = _go(job, config, console, stack=stack, cache=not no_cache, how=how, summary=summary, verbose=verbose)
    except KeyboardInterrupt:
        for again in (signal.SIGINT, signal.SIGTERM):  # a second one would end this in a traceback
            signal.signal(again, signal.SIG_IGN)
        console.speak()
        console.print("Interrupted: the run is marked failed; start it again to go on from the last checkpoint.")
        raise SystemExit(INTERRUPTED) from None
    except (PipelineError, OSError) as error:
        if verbose:
            raise
        raise SystemExit(_say(error)) from None
    if code:
        raise SystemExit(code)


def _asked(jobs: tuple[str, ...], *, plan: bool, rehearse: bool) -> tuple[str, How]:
    """Return the one job, and how it is to be done.

    Raises:
        UsageError: The flags do not say one thing.
    """
    if len(jobs) != 1:
        raise click.UsageError(
            "Say one thing to run: --run-training, --run-sft, --run-dpo, --run-evaluation, --run-comparison or "
            "--run-sweep."
        )
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


def _require_one_voice(*, quiet: bool, verbose: bool, plan: bool) -> None:
    """Refuse to be asked for silence and for words at once.

    Raises:
        UsageError: That is asked.
    """
    for asked, flag in ((verbose, "--verbose"), (plan, "--plan")):
        if quiet and asked:
            raise click.UsageError(f"--quiet and {flag} ask for opposite things: say one of them.")


def _say(error: Exception) -> int:
    """Print the one sentence of an error and return the exit code."""
    if not isinstance(error, PipelineError):
        error = no_space(error) or TrainingError(f"{error}. Mend the path, or its permissions.")
    print_error(f"Error: {error}")
    return error.exit_code


def _say_unexpected(kind: type[BaseException], error: BaseException, _: object) -> None:
    """Show an error that nobody foresaw as one sentence, too; Python exits with code 1 after it."""
    foreseen = no_space(error) or _no_memory(error)
    text = f"Error: {foreseen}" if foreseen else f"Unexpected {kind.__name__}: {error}"
    print_error(text if foreseen else f"{text} Run again with --verbose for the traceback.")


def _no_memory(error: BaseException) -> TrainingError | None:
    """Return what to say where memory ran out; training says so itself, and more of it."""
    from llm_engineering.training.memory import is_out_of_memory

    if not is_out_of_memory(error):
        return None
    return TrainingError("Memory ran out. Lower evaluation.batch_size and start again: finished work is kept.")


def _require_writable(summary: Path) -> None:
    """Refuse a summary that cannot be written, and remove an earlier run's, which would pass for this one's.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        summary.parent.mkdir(parents=True, exist_ok=True)
        summary.write_text("")
        summary.unlink()
    except OSError as error:
        raise StoreError(f"--summary {summary} cannot be written: {error.strerror}. Name another file.") from error


def _go(
    job: Any,
    config: "RunConfig",
    console: RunConsole,
    *,
    stack: str | None,
    cache: bool,
    how: How,
    summary: Path | None,
    verbose: bool,
) -> int:
    """Do the job and return the exit code."""
    from pipelines.store import bury_dead_runs, open_store

    if not verbose:
        take_over_logging(console)
    open_store()
    for name in bury_dead_runs():
        console.print(f"The run {name} died; it is marked failed now, and its finished steps are used.", markup=False)
    from pipelines.launching.prepare import prepare
    from pipelines.stacks.target import aim

    names: list[str] = []
    try:
        target = aim(stack, job, config) if stack else None
        if how == "rehearse":
            _rehearse(job, config, target, console, names, cache=cache, summary=summary)
            return 0
        launch = prepare(job, config, target)
        console.print(facts_table(_header(launch)))
        for warning in launch.warnings:
            console.print(f"Warning: {warning}", style="yellow", markup=False)
        if how == "plan":
            _show_plan(launch, console, cache=cache)
        elif job in SEVERAL:
            return _run_several(launch, console, names, cache=cache, summary=summary)
        else:
            _run(launch, console, names, cache=cache, summary=summary)
    except BaseException as error:
        if summary is not None:
            _write_failure(job, config, names, error, summary)
        raise
    return 0


def _header(launch: "Launch") -> dict[str, str]:
    config = launch.config
    sources = config.data.source_names
    if config.data.sampling:
        sources.append(f"pairs sampled from the SFT model, judged by {config.data.sampling.checker}")
    batches = {
        stage: f"{settings.batch_size} × {settings.accumulation} = {settings.effective_batch} rows"
        for stage, settings in (("SFT", config.sft), ("DPO", config.dpo))
        if launch.job in ("training", *SEVERAL, stage.lower())
    }
    return {
        "run": f"{launch.job} · {config.name} · seed {config.seed}{_models(launch)}",
        "model": f"{config.model.base} · {config.adapter.words}",
        "template": launch.template,
        "data": ", ".join(sources),
        "effective batch": ", ".join(f"{stage} {text}" for stage, text in batches.items()) or "none",
        **({"stack": f"{launch.target.name} · {launch.target.config.about}"} if launch.target else {}),
    }


def _models(launch: "Launch") -> str:
    """Return how many models a comparison or a sweep makes."""
    from llm_engineering.planning.recipes import comparison_recipes, sweep_recipes

    if launch.job == "comparison":
        return f" · {len(comparison_recipes(launch.config)[0])} models"
    return f" · {len(sweep_recipes(launch.config))} runs" if launch.job == "sweep" else ""


def _show_plan(launch: "Launch", console: RunConsole, *, cache: bool) -> None:
    from llm_engineering.reporting.ledger_text import ledger_and_audit
    from pipelines.launching.plan import make_plan

    with console.progress():
        plan = make_plan(launch, cache=cache)
    console.print("\nSteps", style="bold")
    for step in plan.steps:
        after = f" ← {', '.join(step.upstream)}" if step.upstream else ""
        console.print(f"  {'cached  ' if step.cached else 'will run'}  {step.name}{after}", markup=False)
    console.print("\nData", style="bold")
    console.print(ledger_and_audit(plan.data))
    console.print("\nTraining", style="bold")
    console.print(facts_table({f"  {stage}": text for stage, text in plan.stages.items()}))
    _show_estimates(plan.estimates, console)
    if launch.target is not None:
        _show_submission(launch.target, plan, console)


def _show_submission(target: "Target", plan: "Plan", console: RunConsole) -> None:
    """Show what the stack would be sent."""
    from pipelines.stacks.submission import what_is_sent

    sent = what_is_sent(target, [step.name for step in plan.steps if not step.cached], plan.estimates)
    console.print(f"\nWhat the stack {target.name} would be sent", style="bold", markup=False)
    facts = {"image": sent.image, "entry point": sent.entry_point}
    facts |= {machine: ", ".join(steps) for machine, steps in sent.machines.items()}
    facts |= {"retried": sent.retry, "secrets": ", ".join(sent.secrets) or "none", "cost": sent.cost}
    console.print(facts_table({f"  {name}": text for name, text in facts.items()}))
    console.print("\nVariables of every step", style="bold")
    console.print(facts_table({f"  {name}": value for name, value in sent.environment.items()}))


def _show_estimates(estimates: "list[Estimate]", console: RunConsole) -> None:
    from llm_engineering.planning.estimate import LEFT_OUT
    from llm_engineering.planning.estimate_text import estimate_facts

    for found in estimates:
        console.print(f"\nEstimate for {found.machine.name}", style="bold", markup=False)
        console.print(facts_table({f"  {name}": text for name, text in estimate_facts(found).items()}))
    if estimates:
        console.print(f"  {LEFT_OUT}", style="dim")


def _rehearse(
    job: Any,
    config: "RunConfig",
    target: "Target | None",
    console: RunConsole,
    names: list[str],
    *,
    cache: bool,
    summary: Path | None,
) -> None:
    """Run every step in small, and show what the real run would need."""
    from llm_engineering.reporting.text import places
    from pipelines.launching.prepare import prepare
    from pipelines.launching.rehearsal import estimate_rehearsed, prepare_rehearsal

    rehearsal = prepare_rehearsal(job, config)
    launch = prepare(job, rehearsal.config, target)
    model = f"tiny and random, built like {config.model.base} · {launch.config.adapter.words}"
    console.print(facts_table(_header(launch) | {"model": model}))
    for warning in rehearsal.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False)
    for sentence in rehearsal.changes:
        console.print(f"  {sentence}", style="yellow", markup=False)
    reports = _start(launch, console, names, cache=cache)
    run = reports.run
    steps = [*run.step_seconds, *run.cached_steps]
    console.speak()
    console.print(f"\nRehearsed: all {len(steps)} steps passed in {run.seconds:.0f} s.", style="bold green")
    for line in places(reports):
        console.print(line, soft_wrap=True)
    if reports.dataset is not None:
        estimates, unknown = estimate_rehearsed(rehearsal, reports.dataset)
        _show_estimates(estimates, console)
        for name in unknown:
            console.print(f"  {name}: how many rows it has is not known; those rehearsed are counted.", markup=False)
    if summary is not None:
        _write_summary(reports, summary)


def _run(launch: "Launch", console: RunConsole, names: list[str], *, cache: bool, summary: Path | None) -> "RunReports":
    """Run the pipeline, and show, write and return what came out."""
    from llm_engineering.reporting.text import closing, decided, places

    reports = _start(launch, console, names, cache=cache)
    console.speak()
    console.print(*([decided(reports)] if console.asked_quiet else [closing(reports), ""]))
    for line in places(reports):
        console.print(line, soft_wrap=True)
    console.print("dashboard         make dashboard", style="dim")
    if summary is not None:
        _write_summary(reports, summary)
    return reports


def _run_several(launch: "Launch", console: RunConsole, names: list[str], *, cache: bool, summary: Path | None) -> int:
    """Run a comparison or a sweep, show and write what came out, and promote a sweep's best run if it may be."""
    from llm_engineering.reporting.bundle import RunReports
    from llm_engineering.reporting.summary import build_comparison_summary
    from llm_engineering.reporting.text import comparison_closing, places
    from pipelines.launching.collect import compared

    report, facts = compared(_started(launch, console, names, cache=cache))
    console.speak()
    console.print(comparison_closing(report), "")
    for line in places(RunReports(run=facts)):
        console.print(line, soft_wrap=True)
    code = int(any(variant.error for variant in report.variants))
    decision = None
    if report.kind == "sweep" and report.best is not None:
        decision, failed = _promote_best(launch.config, report.best, console)
        code = failed or code
    if summary is not None:
        _write_json(build_comparison_summary(report, facts, decision), summary)
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
        return _run(launch, console, [], cache=True, summary=None).decision, 0
    except PipelineError as error:
        return None, _say(error)


def _start(launch: "Launch", console: RunConsole, names: list[str], *, cache: bool) -> "RunReports":
    """Run the pipeline and return its reports; the run's name is added to ``names`` once it begins."""
    from pipelines.launching.collect import collect

    return collect(launch.config, _started(launch, console, names, cache=cache))


def _started(launch: "Launch", console: RunConsole, names: list[str], *, cache: bool) -> "PipelineRunResponse":
    """Run the pipeline, show its progress and return the run."""
    from pipelines.launching.follow import number_of_steps
    from pipelines.launching.start import start

    def started(name: str) -> None:
        names.append(name)
        console.print(f"[dim]name[/dim]             {name}", soft_wrap=True)

    with console.progress(lambda: number_of_steps(names[-1])):
        return start(launch, cache=cache, started=started)


def _write_failure(job: str, config: "RunConfig", names: list[str], error: BaseException, summary: Path) -> None:
    """Write what there is of a run that failed, or was refused before it began."""
    from zenml.client import Client

    from llm_engineering.reporting.bundle import RunFacts, RunReports
    from pipelines.launching.collect import collect

    text = str(error) or type(error).__name__
    found = Client().list_pipeline_runs(name=names[0], size=1, hydrate=True).items if names else []
    refused = RunFacts(name=config.name, id="", pipeline=job, status="failed", seconds=0.0, error=text)
    _write_summary(collect(config, found[0], text) if found else RunReports(run=refused), summary)


def _write_summary(reports: "RunReports", summary: Path) -> None:
    from llm_engineering.reporting.summary import build_summary

    _write_json(build_summary(reports), summary)


def _write_json(found: dict[str, object], summary: Path) -> None:
    summary.write_text(json.dumps(found, indent=2, allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main()
