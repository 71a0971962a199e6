"""Holds what a platform was asked for against what the stack's file says and what the pipeline needs."""

import base64
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

from llm_engineering.checkup.finding import Finding
from llm_engineering.config.stacks import Machine, StackConfig
from steps.runtime.traits import gpu_steps
from tools.stack_rehearsal.outcome import Outcome
from tools.stack_rehearsal.standins.jobs import Job
from tools.stack_rehearsal.standins.posted import Limits, Posted, step_of

CODE = ("llm_engineering", "steps", "pipelines", "configs")
"""What has to be in the code archive: the rooms that steps import, and what these read."""
EMULATORS = "tools/stack_rehearsal/"
"""What no job needs."""
_RUN_TOKEN = "ZENML_STORE_API_TOKEN"
"""The variable of the token that ZenML makes for a run; SageMaker gets it in pieces, as ``..._CHUNK_0`` and so on."""


def verdict(check: str, faults: Sequence[str], good: str) -> list[Finding]:
    """Return a problem for each fault; what is well, where there is none."""
    return [Finding(check, "problem", fault) for fault in faults] or [Finding(check, "ok", good)]


def examine_run(outcome: Outcome | None) -> list[Finding]:
    """Say how the run ended."""
    if outcome is None:
        return [Finding("run", "problem", "the server has no run: nothing was submitted")]
    unfinished = [f"{name} is {step.status}" for name, step in outcome.steps.items() if step.status != "completed"]
    faults = [f"the run {outcome.name} is {outcome.status}: {', '.join(unfinished) or 'every step is completed'}"]
    good = f"the run {outcome.name} is completed, {len(outcome.steps)} steps"
    return verdict("run", faults if outcome.status != "completed" else [], good)


def examine_jobs(jobs: Sequence[Job]) -> list[Finding]:
    """Say which jobs failed, and where their logs are."""
    failed = [job for job in jobs if job.poll() != 0]
    faults = [f"{job.name} ended with {job.poll()}; its log is {job.log}" for job in failed]
    return verdict("jobs", faults, f"{len(jobs)} jobs ran with what was submitted alone, and ended with 0")


def examine_images(posted: Sequence[Posted], image: str | None) -> list[Finding]:
    """Hold the images against the stack's."""
    faults = [f"{each.name} asks for the image {each.image}, not {image}" for each in posted if each.image != image]
    return verdict("image", faults, f"all {len(posted)} containers ask for {image}")


def examine_entry_points(posted: Sequence[Posted]) -> list[Finding]:
    """Hold the commands against the form of ZenML's entry points."""
    faults = [
        f"{each.name} runs {' '.join(each.command[:3])}, which is no entry point of ZenML's"
        for each in posted
        if list(each.command[:2]) != ["python", "-m"] or not each.command[2].startswith("zenml.")
    ]
    steps = sum(each.step is not None for each in posted)
    return verdict("entry point", faults, f"{steps} containers run a step, {len(posted) - steps} start others")


def examine_machines(posted: Sequence[Posted], config: StackConfig) -> list[Finding]:
    """Hold GPUs and types of machines against the stack's, in the words that the platform understands."""
    faults, needing = [], gpu_steps()
    for each in posted:
        machine = config.gpu if each.step in needing else config.cpu
        wanted = _type_of(machine) if each.step else None
        if each.machine is not None and wanted is not None and each.machine != wanted:
            faults.append(f"{each.name} asks for {each.machine}, not {wanted}")
        if each.gpus is not None and each.gpus != (machine.gpus if each.step else 0):
            faults.append(f"{each.name} asks for {each.gpus} GPUs, not {machine.gpus}")
    on_gpu = sum(each.step in needing for each in posted)
    return verdict("machines", faults, f"{on_gpu} containers ask for {config.gpu.about}, {len(posted) - on_gpu} do not")


def _type_of(machine: Machine) -> str | None:
    settings = machine.step_operator or machine.orchestrator
    arguments = settings.get("estimator_args")
    found = settings.get("instance_type") or (arguments.get("instance_type") if isinstance(arguments, dict) else None)
    return str(found) if found else None


def examine_environments(posted: Sequence[Posted], limits: Limits | None) -> list[Finding]:
    """Hold the variables against the platform's limits."""
    most = max((len(each.environment) for each in posted), default=0)
    longest = max((len(value) for each in posted for value in each.environment.values()), default=0)
    if limits is None:
        return [Finding("environment", "ok", f"at most {most} variables, the longest of {longest} characters")]
    faults = []
    if most > limits.variables:
        faults.append(f"{most} variables, and the platform allows {limits.variables}")
    if longest > limits.characters:
        faults.append(f"a variable of {longest} characters, and the platform allows {limits.characters}")
    words = f"{most} of {limits.variables} variables, the longest {longest} of {limits.characters} characters"
    return verdict("environment", faults, words)


def examine_order(posted: Sequence[Posted], jobs: Sequence[Job], outcome: Outcome) -> list[Finding]:
    """Hold what each step was told to wait for, and what it did wait for, against the pipeline."""
    faults = []
    for each in posted:
        if each.step and each.after is not None and each.after != outcome.steps[each.step].upstream:
            waits, needs = (", ".join(sorted(names)) for names in (each.after, outcome.steps[each.step].upstream))
            faults.append(f"{each.step} is told to wait for {waits or 'nothing'}, and needs {needs or 'nothing'}")
    ran: dict[str, list[Job]] = {}
    for job in jobs:
        if step := step_of(job.command):
            ran.setdefault(step, []).append(job)
    for step, own in ran.items():
        for upstream in outcome.steps[step].upstream & ran.keys():
            if min(job.started for job in own) < max(job.ended for job in ran[upstream]):
                faults.append(f"{step} began before {upstream} had ended")
    told = sum(each.after is not None for each in posted)
    return verdict("order", faults, f"{len(ran)} jobs kept the pipeline's order; the platform was told of {told} steps")


def examine_secrets(text: str, posted: Sequence[Posted], known: Mapping[str, str]) -> list[Finding]:
    """Look for secrets in all that was submitted.

    Args:
        text: All requests, as they were recorded.
        posted: What was asked for in them.
        known: The secrets that are looked for, by what they are.
    """
    faults = [
        f"{what} stands in what was submitted"
        for what, value in known.items()
        if value in text or base64.b64encode(value.encode()).decode() in text
    ]
    findings = verdict("secrets", faults, f"none of {len(known)} known secrets stands in what was submitted")
    bearers = [each.name for each in posted if any(name.startswith(_RUN_TOKEN) for name in each.environment)]
    if bearers:
        words = f"the run's token stands in plain text in {len(bearers)} of {len(posted)} requests, as ZenML posts them"
        remedy = "Who may read the platform's job definitions can act on the ZenML server as this run."
        findings.append(Finding("secrets", "note", words, remedy))
    return findings


def examine_code(archive: BinaryIO | None, tracked: Iterable[str]) -> list[Finding]:
    """Hold the code archive against the files that belong to the project."""
    if archive is None:
        return [Finding("code", "problem", "no code was uploaded: the jobs have what the image holds, and no more")]
    with tarfile.open(fileobj=archive) as files:
        names = {name.removeprefix("./") for name in files.getnames()}
    wanted = set(tracked)
    faults = [f"{name} is not in the code archive" for name in sorted(wanted - names)]
    faults += [f"{name} is in the code archive" for name in sorted(names) if name.startswith(EMULATORS)]
    return verdict("code", faults, f"all {len(wanted)} files of {', '.join(CODE)} are in the code archive")


def examine_submission(
    config: StackConfig, posted: Sequence[Posted], jobs: Sequence[Job], outcome: Outcome | None, limits: Limits | None
) -> Iterator[Finding]:
    """Say of everything but secrets and code whether it is as it should be."""
    yield from examine_run(outcome)
    if not posted:
        yield Finding("submission", "problem", "the platform was asked for nothing")
        return
    yield from examine_jobs(jobs)
    yield from examine_images(posted, config.image)
    yield from examine_entry_points(posted)
    yield from examine_machines(posted, config)
    yield from examine_environments(posted, limits)
    if outcome is not None:
        yield from examine_order(posted, jobs, outcome)
