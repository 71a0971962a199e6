"""What a person is told of a run before it begins: its header, its plan, and what it is estimated to need."""

from typing import TYPE_CHECKING

from tools.console.terminal import RunConsole, facts_table

if TYPE_CHECKING:
    from llm_engineering.planning.estimate import Estimate
    from pipelines.launching.plan import Plan
    from pipelines.launching.prepare import Launch
    from pipelines.stacks.target import Target


def header(launch: "Launch") -> dict[str, str]:
    """Return what is run, on which model and data, by name."""
    config = launch.config
    sources = config.data.source_names
    if config.data.sampling:
        sources.append(f"pairs sampled from the SFT model, judged by {config.data.sampling.checker}")
    batches = {
        stage: f"{settings.batch_size} × {settings.accumulation} = {settings.effective_batch} rows"
        for stage, settings in (("SFT", config.sft), ("DPO", config.dpo))
        if launch.job in ("training", "comparison", "sweep", stage.lower())
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


def show_plan(launch: "Launch", console: RunConsole, *, cache: bool) -> None:
    """Show what is cached and what would run, on how much."""
    from llm_engineering.reporting.data_text import ledger_and_audit
    from pipelines.launching.plan import make_plan

    with console.progress():
        plan = make_plan(launch, cache=cache)
    console.print("\nSteps", style="bold")
    for step in plan.steps:
        after = f" ← {', '.join(step.upstream)}" if step.upstream else ""
        console.print(f"  {'cached  ' if step.cached else 'will run'}  {step.name}{after}", markup=False)
    console.print("\nData", style="bold")
    console.print(ledger_and_audit(plan.data))
    for warning in plan.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False)
    console.print("\nTraining", style="bold")
    console.print(facts_table({f"  {stage}": text for stage, text in plan.stages.items()}))
    show_estimates(plan.estimates, console)
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


def show_estimates(estimates: "list[Estimate]", console: RunConsole) -> None:
    """Show what a run would need of each machine."""
    from llm_engineering.planning.estimate import LEFT_OUT
    from llm_engineering.planning.estimate_text import estimate_facts

    for found in estimates:
        console.print(f"\nEstimate for {found.machine.name}", style="bold", markup=False)
        console.print(facts_table({f"  {name}": text for name, text in estimate_facts(found).items()}))
    if estimates:
        console.print(f"  {LEFT_OUT}", style="dim")
