"""A plan to read before anything runs: the question, one row an arm, and whether the arms can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.planning.forecast.budget import Fit
from lab.planning.forecast.detectable import Detectable
from lab.planning.forecast.power import MOST_SEEDS
from lab.planning.plan.model import Plan
from lab.planning.show.preview import NEW, Preview, differs
from lab.planning.solve.matching import NAMES, Matching
from lab.units import count, duration, measure

ROWS = 40
WIDE = 132
"""Columns from which on the differences have a column of their own."""
_LONG_NAME = 40
_NAMED = 12
"""Arms that a line below the table names."""


def show(preview: Preview, console: Console, *, everything: bool = False) -> None:
    """Print the plan. At most ROWS arms, unless `everything`."""
    plan = preview.plan
    arms = list(preview.runs)
    shown = arms if everything or len(arms) <= ROWS else _first(arms, plan.baseline)
    console.print(Text(plan.question or plan.sweep, style="bold"))
    console.print(Text(_header(preview)))
    console.print(_table(preview, shown, wide=console.width >= WIDE))
    if len(shown) < len(arms):
        console.print(Text(f"… and {len(arms) - len(shown):,} more arms; --all shows them"))
    notes = Table.grid(padding=(0, 1))  # so that a second line stands under the first
    for line in _notes(preview):
        notes.add_row("·", Text(line))
    console.print(notes)
    if preview.fit is not None:
        _print_fit(preview.fit, preview.power, console)


def _first(arms: list[str], baseline: str) -> list[str]:
    """The first rows, the baseline among them."""
    kept = set(arms[:ROWS]) if baseline in arms[:ROWS] else {*arms[: ROWS - 1], baseline}
    return [arm for arm in arms if arm in kept]


def _header(preview: Preview) -> str:
    """`8 runs (4 arms × 2 seeds): 6 new, 2 finished · 5.32TFLOPs in all · about 4 min here, 2 at once`."""
    runs = [run for made in preview.runs.values() for run in made]
    tuning = sum(run.role == "tune" for run in runs)
    arms, seeds = len(preview.arms), preview.power.seeds
    number = f"{len(runs):,} run{'s' if len(runs) != 1 else ''}"
    size = f"{arms} arm{'s' if arms != 1 else ''} × {seeds} seed{'s' if seeds != 1 else ''}"
    if tuning:
        size = f"{tuning:,} tune, {len(runs) - tuning:,} report: {size}"
    said = [
        f"{number} ({size}): {_counted(preview.states_of(runs))}",
        f"{count(sum(run.total_flops for run in runs))}FLOPs in all",
    ]
    left = preview.seconds(runs)
    if left:
        at_once = f", {preview.parallel} at once" if preview.parallel > 1 else ""
        said.append(f"about {duration(left / preview.parallel)} to go here{at_once}")
    return " · ".join(said)


def _table(preview: Preview, arms: list[str], *, wide: bool) -> Table:
    """One row an arm. What differs has a column, or stands below the arm's name where the terminal is narrow."""
    plan, matching = preview.plan, preview.plan.matching
    estimated = any(estimate.basis != "unknown" for estimate in preview.estimates.values())
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1) if wide else (0, 1, 0, 0), pad_edge=False)
    whole = wide and max(map(len, arms), default=0) <= _LONG_NAME
    table.add_column("arm", overflow="fold", min_width=12, no_wrap=whole)
    if wide:
        table.add_column("differs from the baseline", overflow="fold", min_width=24)
    numeric = [
        "seeds",
        "param-\neters",
        "FLOPs\n/token",
        "FLOPs\nin all",
        "KV bytes\n/token" if wide else "KV B\n/token",
    ]
    for column in numeric + (["memory", "time"] if estimated else []):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    base = preview.first(plan.baseline).costs.flops_per_token
    for arm in arms:
        runs, first = preview.runs[arm], preview.first(arm)
        estimate = preview.estimates[first.identity]
        what = "baseline" if arm == plan.baseline else differs(preview.differences(arm))
        larger = matching.parameter_deviations.get(arm, 0.0)
        per_token = first.costs.flops_per_token / base - 1
        seeds = Counter(run.role for run in runs)
        cells = [
            f"{seeds['tune']}+{seeds['report']}" if seeds["tune"] else str(seeds["report"]),
            _with_share(first.costs.parameters, larger, arm == plan.baseline, wide),
            _with_share(first.costs.flops_per_token, per_token, arm == plan.baseline, wide),
            count(sum(run.total_flops for run in runs)),
            count(first.costs.kv_bytes_per_token),
        ]
        if estimated:
            about = "~" if estimate.basis == "scaled" else ""
            memory = None if estimate.memory_bytes is None else f"{about}{count(estimate.memory_bytes)}B"
            cells += [memory or "–", "–" if estimate.seconds is None else f"{about}{duration(estimate.seconds)}"]
        name = Text(arm, style="bold" if arm == plan.baseline else "")
        about_arm = [Text(what, style="dim")] if wide else []
        if not wide:
            name.append(f"\n{what}", style="not bold dim")
        table.add_row(name, *about_arm, *cells, "\n".join(_states(preview.states_of(runs))))
    return table


def _with_share(value: float, deviation: float, baseline: bool, wide: bool) -> str:
    """`822k +5.7%`, on two lines where the terminal is narrow."""
    return count(value) if baseline else f"{count(value)}{' ' if wide else chr(10)}{_percent(deviation)}"


def _percent(deviation: float) -> str:
    size = abs(deviation)
    digits = 0 if size >= 0.0995 else 1
    shown = f"{deviation:+.{digits}%}"
    return "±0%" if size < 0.0005 else shown


def _notes(preview: Preview) -> Iterator[str]:
    plan = preview.plan
    yield from _matched(plan)
    tokens = {run.tokens for run in plan.runs}
    if len(tokens) == 1:
        yield f"every run trains on {count(tokens.pop())} tokens"
    else:
        yield f"runs train on {count(min(tokens))} to {count(max(tokens))} tokens"
    cells = list(dict.fromkeys(run.cell.name for run in plan.runs if run.cell.name))
    if cells:
        named = ", ".join(cells[:8]) + (", …" if len(cells) > 8 else "")
        yield f"each arm picks its own of {len(cells)} cells ({named}) by {plan.tune_metric} on seeds of their own"
    needs = {arm: _needed(preview, arm) for arm in preview.runs}
    for arm, needed in [(arm, needed) for arm, needed in needs.items() if needed][:_NAMED]:
        learns = " (whose forward passes are in its FLOPs in all)" if _reads(preview, arm) else ""
        yield f"{arm} needs {', '.join(needed)}{learns}"
    yield from _equal_flops(preview)
    yield from _cached(preview)
    yield from _estimated(preview)
    yield from _power(preview.power)


def _matched(plan: Plan) -> Iterator[str]:
    """What is matched, by what, and how closely; or which arms are larger."""
    matching = plan.matching
    if matching.by == "none":
        yield from _larger(plan)
        return
    furthest = max(matching.deviations, key=lambda arm: abs(matching.deviations[arm]), default=plan.baseline)
    said = f"matched: {NAMES[matching.by]}, within {100 * matching.tolerance:g}%"
    off = matching.deviations.get(furthest, 0.0)
    said += f"; the furthest is {furthest} at {off:+.2%}" if off else "; all equal"
    if not matching.values:
        yield f"{said}; as they stand, no knob turned"
        return
    values = [f"{arm} {value:,}" for arm, value in matching.values.items()]
    if len(values) > _NAMED:
        of_value = Counter(matching.values.values()).most_common()
        values = [f"{value:,} in {number:,} arms" for value, number in of_value]
    named, more = values[:_NAMED], len(values) - _NAMED
    of = f" in multiples of {matching.multiple_of}" if (matching.multiple_of or 1) > 1 else ""
    yield f"{said}; by {matching.knob}{of}: {', '.join(named)}" + (f" and {more:,} more" if more > 0 else "")


def _larger(plan: Plan) -> Iterator[str]:
    off = beyond(plan.matching)
    if len(plan.arms) < 2:
        return
    if not off:
        yield "nothing is matched, and no arm is larger or smaller than the baseline"
        return
    said = [f"{arm} {', '.join(parts)}" for arm, parts in list(off.items())[:_NAMED]]
    more = f" and {len(off) - len(said):,} more" if len(off) > len(said) else ""
    yield f"nothing is matched; beside {plan.baseline}: {'; '.join(said)}{more}"


def beyond(matching: Matching) -> dict[str, list[str]]:
    """Arm → what it has more or less of than the baseline beyond the tolerance: `+7.9% parameters`."""
    kinds = (("parameters", matching.parameter_deviations), ("training FLOPs", matching.flops_deviations))
    found = {
        arm: [f"{_percent(of[arm])} {name}" for name, of in kinds if abs(of[arm]) > matching.tolerance]
        for arm in matching.parameter_deviations
    }
    return {arm: parts for arm, parts in found.items() if parts}


def _needed(preview: Preview, arm: str) -> list[str]:
    """The arms of the sweep, or else the runs, that an arm's runs consume."""
    own = f"{preview.plan.sweep}/"
    runs = [need.run for run in preview.arms[arm] for need in run.needs]
    return list(dict.fromkeys(run.split("/")[1] if run.startswith(own) else run for run in runs))


def _reads(preview: Preview, arm: str) -> bool:
    return any(need.flops_per_token for run in preview.arms[arm] for need in run.needs)


def _equal_flops(preview: Preview) -> Iterator[str]:
    for arm, other in preview.plan.equal_flops.items():
        mine, theirs = preview.first(arm), preview.first(other)
        off = mine.total_flops / theirs.total_flops - 1
        yield (
            f"{arm} trains on {count(mine.tokens)} tokens for the FLOPs in all of {other}, which trains on "
            f"{count(theirs.tokens)}: {off:+.2%}"
        )


def _cached(preview: Preview) -> Iterator[str]:
    """What teachers' outputs take on disk, before any of them is written."""
    sizes = {arm: preview.first(arm).experiment for arm in preview.runs}
    kept = {arm: size for arm, each in sizes.items() if (size := each.recipe.cache_bytes(each))}
    if not kept:
        return
    total = sum(size * len(preview.runs[arm]) for arm, size in kept.items())
    said = ", ".join(f"{arm} {count(size)}B" for arm, size in list(kept.items())[:_NAMED])
    yield (
        f"teachers' outputs kept in the lab's cache, a run: {said}; {count(total)}B for all runs, less where several "
        "read the same; each counts the teacher's forward passes, though they are made once"
    )


def _estimated(preview: Preview) -> Iterator[str]:
    bases = Counter(preview.estimates[preview.first(arm).identity].basis for arm in preview.runs)
    if not bases.get("measured") and not bases.get("scaled"):
        yield "time and memory: unknown, as no run of this kind has been measured on this hardware"
        return
    arms = len(preview.runs)
    described: dict[str, list[str]] = {}
    for arm in preview.runs:
        described.setdefault(preview.estimates[preview.first(arm).identity].describe(), []).append(arm)
    if len(described) == 1:
        yield f"time and memory of a run: {next(iter(described))}; starting up is not counted"
        return
    said = [f"{len(names)} of {arms} arms {text}" for text, names in list(described.items())[:4]]
    yield (
        f"time and memory of a run: {'; '.join(said)}; ~ marks what is scaled by FLOPs a token; starting up is not "
        "counted"
    )


def _power(power: Detectable) -> Iterator[str]:
    if power.comparisons < 1:
        return
    arms = f"{power.comparisons} comparison{'s' if power.comparisons > 1 else ''}"
    if power.noise.sd is None:
        if power.equivalence is not None:
            yield f"equivalent is within ±{power.equivalence:g}{_unit(power) or f' of {power.metric}'}"
        yield (
            f"smallest detectable effect: unknown until two seeds of an arm and the baseline have finished ({arms}, "
            f"paired t, α = {power.alpha:g} in all)"
        )
        return
    unit = _unit(power)
    seen = "this sweep" if power.noise.source == "this sweep" else "other runs of the same experiment and tokens"
    noise = (
        f"SD of a paired difference {measure(power.noise.sd)}, {power.noise.degrees} degrees of freedom, from {seen}"
    )
    if power.effect is None:
        yield f"one seed can't tell an effect from noise ({noise})"
    else:
        yield (
            f"smallest detectable effect on {power.metric}: {measure(power.effect)}{unit} with {power.seeds} seeds "
            f"({noise}; {arms}, paired t, α = {power.alpha:g} in all, power {power.power:g})"
        )
    if power.seeds_for_target is not None:
        over = "more than " if power.seeds_for_target >= MOST_SEEDS else ""
        yield f"{power.target:g}{unit or f' of {power.metric}'} would take {over}{power.seeds_for_target:,} seeds"
    if power.equivalence is not None and power.seeds_for_equivalence is not None:
        over = "more than " if power.seeds_for_equivalence >= MOST_SEEDS else ""
        yield (
            f"equivalent is within ±{power.equivalence:g}{unit or f' of {power.metric}'}: showing that of an arm that "
            f"makes no difference would take {over}{power.seeds_for_equivalence:,} seeds"
        )


def _print_fit(fit: Fit, power: Detectable, console: Console) -> None:
    """What the budget buys."""
    unit = _unit(power)
    console.print()
    rests = f" (speed: {fit.basis}; starting up is not counted)" if fit.basis else ""
    console.print(Text(f"{fit.budget.text} is {1 / fit.needed:.3g} times what this sweep takes{rests}", style="bold"))
    if fit.own is not None:
        found = f", detecting {measure(fit.own.effect)}{unit}" if fit.own.effect is not None else ""
        console.print(Text(f"with its own {count(fit.own.tokens)} tokens: {fit.own.seeds:,} seeds{found}"))
    else:
        console.print(Text("with its own tokens not even two seeds fit"))
    if not fit.choices:
        console.print(Text("no number of tokens that its schedule allows fits with two seeds"))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("seeds", "tokens", "smallest detectable effect", "of the budget"):
        table.add_column(column, justify="right", no_wrap=True)
    for choice in fit.choices:
        effect = "unknown" if choice.effect is None else f"{measure(choice.effect)}{unit}"
        table.add_row(str(choice.seeds), count(choice.tokens), effect, f"{choice.used:.0%}")
    console.print(table)
    if power.noise.sd is not None:
        console.print(Text("The noise is assumed to stay as it was seen, whatever the tokens."))


def _unit(power: Detectable) -> str:
    return " nats" if power.metric.endswith("loss") else ""


def _states(states: Counter[str]) -> list[str]:
    return [f"{number:,} {state}" for state, number in states.items()]


def _counted(states: Counter[str]) -> str:
    """`6 new, 2 finished`, the new ones first."""
    return ", ".join(_states(Counter({NEW: states[NEW], **states}) if states[NEW] else states))
