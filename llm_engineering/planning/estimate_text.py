"""An estimate in words: rounded, and always a range."""

from llm_engineering.planning.estimate import USED_SHARE, Estimate, Machine, Range, StageEstimate

SMALLEST_SHOWN = 0.02
"""Share of the peak from which on a part of the memory is named."""


def estimate_facts(estimate: Estimate) -> dict[str, str]:
    """Return names and values to show one below the other."""
    share = estimate.trained / estimate.parameters
    facts = {"parameters": f"{_count(estimate.parameters)}, {_count(estimate.trained)} trained ({share:.1%})"}
    for stage, found in estimate.stages.items():
        facts[stage] = _stage(found)
        each = f" in each of {estimate.processes} processes" if estimate.processes > 1 else ""
        facts[f"{stage} memory"] = f"{span_of_bytes(found.peak)}{each}: {_parts(found)}"
    if estimate.loading:
        facts["loading"] = f"{_bytes(estimate.loading)} of main memory: each process loads the whole model at first"
    alone = ", in one process" if estimate.processes > 1 else ""
    facts["merging"] = f"{span_of_bytes(estimate.merge)}{alone}, since it is done in float32"
    facts["evaluating"] = f"{span_of_bytes(estimate.evaluation)}{alone}"
    facts["speed"] = _speed(estimate.machine)
    return facts


def _stage(found: StageEstimate) -> str:
    at_most = "at most " if found.at_most else ""
    return f"{at_most}{found.steps:,} updates, {span_of_seconds(found.seconds)}"


def _parts(found: StageEstimate) -> str:
    whole = sum(found.memory.values())
    shown = {name: size for name, size in found.memory.items() if size >= SMALLEST_SHOWN * whole}
    return ", ".join(f"{name} {_bytes(size)}" for name, size in sorted(shown.items(), key=lambda part: -part[1]))


def _speed(machine: Machine) -> str:
    low, high = USED_SHARE
    how = "measured here on a matrix product" if machine.measured else "assumed for a matrix product"
    return f"{_rounded(machine.speed / 1e9)} GFLOP/s, {how}; trainings use {low:.0%} to {high:.0%} of it"


def span_of_bytes(span: Range) -> str:
    """Return a range of bytes, such as ``4 to 6 GB``."""
    low, high = _bytes(span.low), _bytes(span.high)
    number, unit = low.split()
    return low if low == high else f"{number} to {high}" if high.endswith(unit) else f"{low} to {high}"


def span_of_seconds(span: Range) -> str:
    """Return a range of seconds in a unit that suits it, such as ``2 to 7 h``."""
    units = ((86400 * 365.0, "years"), (86400.0, "days"), (3600.0, "h"), (60.0, "min"), (0.0, "s"))
    size, unit = next((size, unit) for size, unit in units if span.high >= 1.5 * size)
    low, high = (_rounded(max(end / (size or 1.0), 0.0)) for end in (span.low, span.high))
    return f"{low} to {high} {unit}" if low != high else f"{high} {unit}"


def _bytes(size: float) -> str:
    return f"{_rounded(size / 1e9)} GB" if size >= 0.95e9 else f"{_rounded(max(size / 1e6, 1))} MB"


def _count(number: int) -> str:
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,}"


def _rounded(value: float) -> str:
    """Return a number to two digits: more would pretend to be known."""
    return f"{float(f'{value:.2g}'):,.{0 if value >= 10 else 1}f}".removesuffix(".0")
