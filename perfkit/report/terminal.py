"""A run as text: what it cost, beside what, where the time went, and how to look closer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from perfkit.analysis import speed
from perfkit.core.config import SessionConfig
from perfkit.core.record import FOREIGN_LOAD_BOUND, RECORD_NAME, Cell, Record, read_record
from perfkit.report.console import Line, borderless_table, make_console, print_lines, print_path
from perfkit.report.words import (
    bounds,
    count_of,
    decimals,
    duration,
    energy_words,
    known,
    significant,
    size,
)

PHASE_NAMES = {
    "data_wait": "data wait",
    "host_to_device": "host to device",
    "preprocess": "preprocess",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimiser",
    "other": "other",
}
# Speedup is for the same work; where the global batch grows with the ranks, throughput grows.
GAIN_NAMES = {True: ("speedup", "efficiency"), False: ("throughput gain", "throughput efficiency")}
MEASURED = {
    "quick look": ("timed step", "round", ", one process per cell"),
    "training": ("step", "epoch", ""),
    "own loop": ("timed step", "round", " of a loop of your own"),
}
NO_TRACE = "none: under Nsight Systems torch's profiler stays off; see domain perfkit in its report"
MOST_SPREAD = 1.0  # of a share: a wider interval tells nothing


def print_run(folder: Path, console: Console | None = None) -> None:
    """Print the run in ``folder``."""
    record = read_record(folder)
    console = console or make_console()
    console.print()
    console.print(title(record), style="bold")
    print_lines(conditions(record), console)
    console.print()
    console.print(costs_table(record))
    console.print()
    console.print(phases_table(record))
    console.print()
    print_lines(findings(record), console)
    print_lines([("notice", taint) for taint in record.taints], console, style="yellow")
    console.print()
    print_path("record", folder / RECORD_NAME, console)
    for file in record.traces.files if record.traces is not None else []:
        if file.rank is None:
            print_path("trace", folder / file.path, console)
            hint = f"{size(file.size_bytes)}; open https://ui.perfetto.dev and drop the file there"
            print_lines([("", hint)], console)
    if record.traces is not None and not record.traces.files:
        print_lines([("trace", NO_TRACE)], console)


def title(record: Record) -> str:
    """Return what was run."""
    cell = record.cells[0]
    placement = "-".join(str(device) for device in cell.placement)
    under = "" if record.kind == "own loop" else f" under {cell.strategy}"
    return (
        f"{record.config.workload}{under} on {device_words(cell)}"
        + (f", stages on devices {placement}" if placement else "")
        + f" ({record.kind}"
        + (")" if record.status == "complete" else ", INCOMPLETE)")
    )


def conditions(record: Record) -> list[Line]:
    """Return what the numbers hold for."""
    cell, environment, size_px = record.cells[0], record.environment, record.config.image_size
    steps = sum(block.step_count for block in cell.blocks if block.rank == 0)
    rounds = len(speed.round_step_s(cell))
    batch = f"{cell.global_batch}"
    if cell.ranks > 1:
        batch = f"local {cell.local_batch}, global {cell.global_batch} ({record.scaling} scaling)"
    step, part, more = MEASURED[record.kind]
    named = None if isinstance(record.config, SessionConfig) else record.config.model
    weights = None if isinstance(record.config, SessionConfig) else record.config.weights
    model = f"{named}, " if named else ""
    px = f", {size_px} x {size_px} px" if size_px is not None else ""
    made = "" if cell.stored_s is None else f"; stored before, in {duration(cell.stored_s)}"
    lines = [
        ("data", f"{record.data.name}{px}"),
        *([("model", f"{model}{record.parameters:,} parameters")] if record.parameters else []),
        *([("weights", weights_words(weights, record.new_parameters))] if weights else []),
        *([("preprocess", preprocess_words(cell) + made)] if cell.preprocess else []),
        *([("squeeze-excite", squeeze_excite_words(cell))] if cell.squeeze_excites else []),
        *([("precision", precision_words(cell))] if cell.precision else []),
        ("batch", batch),
        ("machine", f"{environment.hardware}; torch {environment.versions.get('torch', '?')}"),
        ("measured", f"{count_of(steps, step)} in {count_of(rounds, part)}{more}"),
    ]
    if record.gate is not None:
        difference = record.gate.max_abs_difference
        fused = any(name != "reference" for name in record.gate.squeeze_excites)
        serial = "serial with reference squeeze-excite" if fused else "serial"
        how = (
            f"equal to {serial} within {difference:.0e}" if difference else f"identical to {serial}"
        )
        lines.append(("correctness", f"{how} after {record.gate.steps} steps in float64"))
    return lines


def loss(record: Record, cell: Cell) -> str:
    """Return the loss of the last timed step."""
    value = speed.loss(cell)
    if value is None:
        return "?" if record.kind == "own loop" else "not finite"
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


class Cost(NamedTuple):
    """An absolute cost of a cell: its name, the same over a narrow column, and how to tell it."""

    name: str
    heading: str
    tell: Callable[[Record, Cell], str]


COSTS = (
    Cost("step time", "step\ntime", lambda _, cell: duration(speed.step_s(cell))),
    Cost("samples/s", "samples/s", lambda _, cell: significant(speed.samples_per_s(cell))),
    Cost(
        "epoch, projected",
        "epoch,\nprojected",
        lambda record, cell: known(speed.epoch_s(cell, record.data.samples_per_epoch)),
    ),
    Cost(
        "time to first step",
        "first\nstep",
        lambda _, cell: duration(max(cell.time_to_first_step_s)),
    ),
    Cost("peak memory per rank", "peak memory\nper rank", lambda _, cell: peak(cell)),
    Cost("global batch", "global\nbatch", lambda _, cell: str(cell.global_batch)),
    Cost("loss of last timed step", "last\nloss", loss),
)


def costs_table(record: Record) -> Table:
    """Return the strategy and its baselines side by side, absolute cost first."""
    strategy, baselines = record.cells[0], speed.baselines(record)
    table = borderless_table()
    table.add_column("", no_wrap=True)
    table.add_column("this run\n" + _heading(strategy), justify="right", style="bold")
    for baseline in baselines:
        table.add_column(f"{baseline.role}\n{_heading(baseline)}", justify="right")
    cells = (strategy, *baselines)
    ran = {
        "preprocess": [preprocess_words(cell).replace(", ", "\n") for cell in cells],
        "squeeze-excite": ["\n".join(squeeze_excites(cell)) for cell in cells],
    }
    for name, told in ran.items():
        if len(set(told)) > 1:
            table.add_row(name, *told)
    for cost in COSTS:
        told = [cost.tell(record, cell) for cell in cells]
        if record.kind != "own loop" or told != ["?"]:
            table.add_row(cost.name, *told)
    if strategy.ranks > 1 or strategy.workers:
        table.add_row("memory of ranks and workers", *(all_ranks_memory(cell) for cell in cells))
    energies = [speed.energy_j_per_sample(cell) for cell in cells]
    if any(energies):
        table.add_row("energy a sample", *map(energy_words, energies))
    if baselines:
        gains = [speed.gain(strategy, baseline) for baseline in baselines]
        same_work = all(cell.global_batch == strategy.global_batch for cell in baselines)
        gain_name, efficiency_name = GAIN_NAMES[same_work]
        factors = (f"{gain.estimate:.2f}x" for gain in gains)
        table.add_row(f"{gain_name}, within rounds", "", *factors)
        table.add_row("  95 % interval", "", *(bounds(gain) for gain in gains))
        count = speed.devices(strategy)
        efficiencies = (
            f"{gain.estimate / count:.2f}" if _is_one_device(baseline, strategy) else "-"
            for gain, baseline in zip(gains, baselines, strict=True)
        )
        if any(_is_one_device(baseline, strategy) for baseline in baselines):
            table.add_row(efficiency_name, "", *efficiencies)
            table.add_row("ceiling of the strategy", f"{strategy.ceiling:g}x")
    return table


def phases_table(record: Record) -> Table:
    """Return where the time of a step went on the slowest rank."""
    cell = record.cells[0]
    host = speed.phases(cell)
    on_device = any(step.device_phases_s for block in cell.blocks for step in block.steps)
    device = speed.phases(cell, "device") if on_device else None
    table = borderless_table()
    slowest = ", the slowest" if cell.ranks > 1 else ""
    table.add_column(f"step of rank {host.rank}{slowest}")
    table.add_column("host ms", justify="right")
    table.add_column("share", justify="right")
    if device is not None:
        table.add_column("device ms", justify="right")
    total = sum(host.seconds.values())
    places = max(decimals(total * 1e3), 1)
    for name in dict.fromkeys((*PHASE_NAMES, *host.seconds)):
        seconds = host.seconds.get(name)
        if seconds is None:  # a loop of one's own has the phases that it names
            continue
        row = [
            PHASE_NAMES.get(name, name),
            f"{seconds * 1e3:,.{places}f}",
            f"{seconds / total:.0%}",
        ]
        if device is not None:
            there = device.seconds.get(name)
            row.append("" if there is None else f"{there * 1e3:,.{places}f}")
        table.add_row(*row)
    if host.transfer_s is not None:
        share = f"{host.transfer_s / total:.0%}"
        moved = f"{host.transfer_s * 1e3:,.{places}f}"
        table.add_row("of which between devices", moved, share)
    return table


def findings(record: Record) -> list[Line]:
    """Return what the numbers come to, a sentence a line."""
    strategy = record.cells[0]
    lines = [("Worth it?", verdict(record, baseline)) for baseline in speed.baselines(record)]
    exposed = speed.exposed_communication(record)
    if exposed is not None and exposed.high - exposed.low > MOST_SPREAD:
        lines.append(("communication", "too noisy to tell what exchanging gradients costs"))
    elif exposed is not None:
        share = f"{exposed.estimate:.0%} [{exposed.low:.0%}, {exposed.high:.0%}]"
        told = (
            f"{share} of the step goes to exchanging gradients that backward did not hide "
            "(the step minus the same step without exchange)"
        )
        if exposed.low <= 0:
            told = f"undecided: {share} of the step would be exposed exchange of gradients"
        lines.append(("communication", told))
    if strategy.crossings is not None:
        lines.append(
            (
                "observed",
                f"stages on {strategy.devices_per_rank} devices in each rank, "
                f"{count_of(strategy.crossings, 'crossing')} between them in each direction",
            )
        )
    if speed.baselines(record):
        lines.append(
            (
                record.kind,
                "one process of each: the intervals do not cover what varies between processes",
            )
        )
    inflation = speed.profiler_inflation(record)
    if inflation is not None:
        who = "profiler" if record.traces is not None and record.traces.files else "nsys"
        lines.append((who, f"a traced step took {inflation:.2f}x as long as a timed one"))
    skipped = record.data.skipped
    if skipped:
        lines.append(
            ("data", f"{count_of(len(skipped), 'unreadable file')} skipped, first {skipped[0]}")
        )
    return lines


def verdict(record: Record, baseline: Cell) -> str:
    """Return whether the strategy paid, as one sentence with its evidence."""
    strategy = record.cells[0]
    gain = speed.gain(strategy, baseline)
    name, _, amount = baseline.label.partition(", ")
    evidence = f"{gain.estimate:.2f}x {bounds(gain)} the samples/s of {name}"
    evidence += f" ({amount})" if amount else ""
    if baseline.role == "variant":
        evidence = f"{gain.estimate:.2f}x {bounds(gain)} the samples/s with {difference(baseline)}"
    elif _is_one_device(baseline, strategy):
        evidence += f"; the ceiling is {strategy.ceiling:g}x"
    else:
        evidence += ", which has the cores of all ranks"
    busy = max(foreign_share(cell) for cell in (strategy, baseline)) > FOREIGN_LOAD_BOUND
    if busy:
        return f"Doubtful, other processes kept the host busy; measure again. Seen: {evidence}."
    return {
        "faster": f"Yes: {evidence}.",
        "slower": f"No: {evidence}.",
        "equal": f"No gain: {evidence}.",
        "undecided": f"Undecided, {_rounds_so_far(strategy, baseline)}: {evidence}.",
    }[speed.word_for(gain)]


def foreign_share(cell: Cell) -> float:
    """Return the largest share of the host's CPU time that others took beside the cell."""
    return max((load.foreign_cpu_share or 0.0 for load in cell.load), default=0.0)


def peak(cell: Cell) -> str:
    """Return the peak memory of the rank that took most: of its GPUs where it has some."""
    mib = speed.peak_mib(cell)
    if mib is None:
        return "?"
    on_gpu = any(memory.cuda_allocated_mib for memory in cell.memory)
    return f"{mib:,.0f} MiB {'GPU' if on_gpu else 'CPU'}"


def precision_words(cell: Cell) -> str:
    """Return the precision that was asked for, and what was seen of it."""
    if cell.precision in {"bf16", "fp16"} and cell.product_dtypes:
        seen = cell.product_dtypes[0]
        low = sum(count for dtype, count in seen.items() if dtype != "torch.float32")
        share = f"{low} of {sum(seen.values())}"
        return f"{cell.precision}, in which {share} products of the forward were seen to run"
    if cell.tf32 is None:
        return f"{cell.precision}"
    return f"{cell.precision} (TF32 {'on' if cell.tf32 else 'off'})"


def preprocess_words(cell: Cell) -> str:
    """Return where images were preprocessed, and what was seen to do it."""
    return ", ".join([cell.preprocess or "?", *dict.fromkeys(cell.implementation)])


def squeeze_excites(cell: Cell) -> dict[str, int]:
    """Return how many Squeeze-and-Excitation blocks the first rank ran, by what ran them."""
    return cell.squeeze_excites[0] if cell.squeeze_excites else {}


def squeeze_excite_words(cell: Cell) -> str:
    """Return what was seen to run the Squeeze-and-Excitation blocks; empty where there are none."""
    seen = squeeze_excites(cell)
    blocks = count_of(sum(seen.values()), "block")
    return ", ".join(f"{count} of {blocks} {name}" for name, count in seen.items())


def weights_words(weights: Path, new: Sequence[str]) -> str:
    """Return the file of weights, and which parameters it lacks."""
    if not new:
        return f"{weights}"
    return (
        f"{weights}, which lacks {count_of(len(new), 'parameter')}, first {new[0]}: these are new"
    )


def all_ranks_memory(cell: Cell) -> str:
    """Return the memory of all ranks and their loader workers, shared pages counted once."""
    shares = [memory.cpu_pss_mib for memory in cell.memory]
    known = [share for share in shares if share is not None]
    return f"{sum(known):,.0f} MiB CPU" if known and len(known) == len(shares) else "?"


def device_words(cell: Cell) -> str:
    """Return how many devices of what kind a cell runs on."""
    first = cell.devices[0][0]
    kind = "stand-in device" if first.startswith("stand-in") else first.partition(":")[0]
    kind = {"cuda": "GPU", "cpu": "CPU rank"}.get(kind, kind)
    return count_of(speed.devices(cell), kind)


def _is_one_device(baseline: Cell, strategy: Cell) -> bool:
    """Whether the baseline has what one device of the strategy has, and not all of its cores."""
    return baseline.role == "baseline" and baseline.threads == strategy.threads


def _rounds_so_far(strategy: Cell, baseline: Cell) -> str:
    rounds = len(speed.round_step_s(strategy))
    if rounds < 2:
        return "one round tells nothing of its spread"
    return f"about {count_of(speed.more_rounds(strategy, baseline), 'more round')} would tell"


def difference(variant: Cell) -> str:
    """Return what a variant has another value of, as in "workers=1"."""
    return variant.label.rpartition(", ")[2]


def _heading(cell: Cell) -> str:
    """Return the label on two lines, for a narrow column."""
    if cell.role == "variant":
        return f"same, but\n{difference(cell)}"
    return cell.label.replace(", ", "\n", 1)
