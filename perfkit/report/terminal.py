"""A run as text: what it cost, beside what, where the time went, and how to look closer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from perfkit.analysis import speed
from perfkit.core.record import FOREIGN_LOAD_BOUND, Cell, Record, read_record
from perfkit.core.stats import Interval

PHASE_NAMES = {
    "data_wait": "data wait",
    "host_to_device": "host to device",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimiser",
    "other": "other",
}
# Speedup is for the same work; where the global batch grows with the ranks, throughput grows.
GAIN_NAMES = {True: ("speedup", "efficiency"), False: ("throughput gain", "throughput efficiency")}
MERGED = "traces/merged.json.gz"


def print_run(folder: Path, console: Console | None = None) -> None:
    """Print the run in ``folder``."""
    record = read_record(folder)
    console = console or Console(highlight=False, width=None)
    console.print()
    console.print(f"[bold]{title(record)}[/bold]", soft_wrap=True)
    console.print(conditions(record), soft_wrap=True)
    console.print(Padding(costs_table(record), (1, 0, 0, 0)))
    console.print(Padding(phases_table(record), (1, 0, 0, 0)))
    for line in findings(record):
        console.print(line, soft_wrap=True)
    for taint in record.taints:
        console.print(f"[yellow]notice:[/yellow] {taint}", soft_wrap=True)
    console.print()
    console.print(f"record   {folder / 'record.json'}", soft_wrap=True)
    if record.traces is not None:
        size_mib = max(file.size_bytes for file in record.traces.files) / 2**20
        console.print(
            f"trace    {folder / MERGED} ({size_mib:.1f} MiB): open https://ui.perfetto.dev and "
            "drop the file there",
            soft_wrap=True,
        )


def title(record: Record) -> str:
    """Return what was run."""
    cell = record.cells[0]
    placement = f" ({_placement(cell)})" if cell.placement else ""
    return (
        f"{record.config.workload}: {cell.strategy} on {_device_words(cell)}{placement}, "
        f"a {record.kind}" + ("" if record.status == "complete" else ", INCOMPLETE")
    )


def conditions(record: Record) -> str:
    """Return what the numbers hold for."""
    cell, environment = record.cells[0], record.environment
    size = record.config.image_size
    rounds = len(speed.round_step_s(cell))
    steps = sum(len(block.steps) for block in cell.blocks if block.rank == 0)
    gate = ""
    if record.gate is not None:
        gate = f"; equal to serial within {record.gate.max_abs_difference:.1e} (float64)"
    return (
        f"{record.data.name}, {size} x {size} px, local batch {cell.local_batch}, global batch "
        f"{cell.global_batch} ({record.scaling} scaling), {record.parameters:,} parameters\n"
        f"{environment.hardware}; torch {environment.versions.get('torch', '?')}; "
        f"{steps} timed steps in {rounds} rounds, one process per cell{gate}"
    )


def costs_table(record: Record) -> Table:
    """Return the strategy and its baselines side by side, absolute cost first."""
    strategy, baselines = record.cells[0], speed.baselines(record)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("this run\n" + _heading(strategy), justify="right", style="bold")
    for baseline in baselines:
        table.add_column("baseline\n" + _heading(baseline), justify="right")
    for name, value in cost_rows():
        table.add_row(name, *(value(record, cell) for cell in (strategy, *baselines)))
    if baselines:
        gains = [speed.gain(strategy, baseline) for baseline in baselines]
        count = speed.devices(strategy)
        same_work = all(cell.global_batch == strategy.global_batch for cell in baselines)
        gain_name, efficiency_name = GAIN_NAMES[same_work]
        table.add_row(gain_name, "", *(f"{gain.estimate:.2f}x" for gain in gains))
        bounds = (interval(gain, "x").partition(" ")[2] for gain in gains)
        table.add_row("  95 % interval", "", *bounds)
        efficiencies = (f"{gain.estimate / count:.2f}" for gain in gains)
        table.add_row(efficiency_name, "", *efficiencies)
        table.add_row("ceiling of the strategy", f"{strategy.ceiling:g}x")
    return table


def cost_rows() -> list[tuple[str, Callable[[Record, Cell], str]]]:
    """Return the absolute costs of a cell: their names, and how to tell them."""
    return [
        ("s/step", lambda _, cell: f"{speed.step_s(cell):.3f}"),
        ("samples/s", lambda _, cell: f"{speed.samples_per_s(cell):.1f}"),
        (
            "epoch, projected",
            lambda record, cell: duration(speed.epoch_s(cell, record.data.samples_per_epoch)),
        ),
        ("time to first step", lambda _, cell: duration(max(cell.time_to_first_step_s))),
        ("peak memory per rank", lambda _, cell: peak(cell)),
        ("global batch", lambda _, cell: str(cell.global_batch)),
        ("loss of last timed step", lambda _, cell: f"{speed.loss(cell):.3f}"),
    ]


def phases_table(record: Record) -> Table:
    """Return where the time of a step went on the slowest rank."""
    cell = record.cells[0]
    host = speed.phases(cell)
    on_device = any(step.device_phases_s for block in cell.blocks for step in block.steps)
    device = speed.phases(cell, "device") if on_device else None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(f"step of rank {host.rank}")
    table.add_column("host ms", justify="right")
    table.add_column("share", justify="right")
    if device is not None:
        table.add_column("device ms", justify="right")
    total = sum(host.seconds.values())
    for name, words in PHASE_NAMES.items():
        seconds = host.seconds.get(name, 0.0)
        row = [words, f"{seconds * 1e3:.1f}", f"{seconds / total:.0%}"]
        if device is not None:
            row.append(f"{device.seconds[name] * 1e3:.1f}" if name in device.seconds else "")
        table.add_row(*row)
    if host.transfer_s is not None:
        share = f"{host.transfer_s / total:.0%}"
        table.add_row("of which between devices", f"{host.transfer_s * 1e3:.1f}", share)
    return table


def findings(record: Record) -> list[str]:
    """Return what the numbers come to, a sentence a line."""
    strategy = record.cells[0]
    lines = [""]
    lines += [f"[bold]Worth it?[/bold] {verdict(record, b)}" for b in speed.baselines(record)]
    exposed = speed.exposed_communication(record)
    if exposed is not None:
        lines.append(
            f"communication: {interval(exposed, '', percent=True)} of the step is spent on "
            "gradients that backward did not hide (step minus the same step without exchange)"
        )
    if strategy.crossings is not None:
        lines.append(
            f"observed: stages on {strategy.devices_per_rank} devices a rank, "
            f"{strategy.crossings} crossing(s) between them in each direction"
        )
    inflation = speed.profiler_inflation(record)
    if inflation is not None:
        lines.append(f"profiler: a traced step took {inflation:.2f}x a timed one")
    skipped = len(record.data.skipped)
    if skipped:
        lines.append(f"data: {skipped} unreadable file(s) skipped, first {record.data.skipped[0]}")
    return lines


def verdict(record: Record, baseline: Cell) -> str:
    """Return whether the strategy paid, as one sentence with its evidence."""
    strategy = record.cells[0]
    gain = speed.gain(strategy, baseline)
    evidence = (
        f"{interval(gain, 'x')} the samples/s of {baseline.label} on "
        f"{_device_words(strategy)}, ceiling {strategy.ceiling:g}x"
    )
    busy = max(foreign_share(cell) for cell in (strategy, baseline)) > FOREIGN_LOAD_BOUND
    if busy:
        return f"Doubtful, the host was busy with other work; measure again. Seen: {evidence}."
    return {
        "faster": f"Yes: {evidence}.",
        "slower": f"No: {evidence}.",
        "equal": f"No gain: {evidence}.",
        "undecided": f"Undecided in {len(speed.round_step_s(strategy))} rounds: {evidence}.",
    }[speed.word_for(gain)]


def foreign_share(cell: Cell) -> float:
    """Return the largest share of the host's CPU time that others took beside the cell."""
    return max((load.foreign_cpu_share or 0.0 for load in cell.load), default=0.0)


def interval(value: Interval, unit: str, *, percent: bool = False) -> str:
    """Return an estimate with its 95 % interval."""
    if percent:
        return f"{value.estimate:.0%} \\[{value.low:.0%}, {value.high:.0%}]"
    high = "inf" if math.isinf(value.high) else f"{value.high:.2f}"
    return f"{value.estimate:.2f}{unit} \\[{value.low:.2f}, {high}]"


def duration(seconds: float) -> str:
    """Return seconds as a person would say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def peak(cell: Cell) -> str:
    """Return the peak memory of the rank that took most: of its GPUs where it has some."""
    on_gpu = [max(memory.cuda_allocated_mib) for memory in cell.memory if memory.cuda_allocated_mib]
    on_cpu = [memory.cpu_peak_mib for memory in cell.memory if memory.cpu_peak_mib is not None]
    if on_gpu:
        return f"{max(on_gpu):,.0f} MiB GPU"
    return f"{max(on_cpu):,.0f} MiB CPU" if on_cpu else "?"


def _heading(cell: Cell) -> str:
    """Return the label on two lines, for a narrow column."""
    return cell.label.replace(", ", "\n", 1)


def _placement(cell: Cell) -> str:
    return "stages on devices " + "-".join(str(device) for device in cell.placement)


def _device_words(cell: Cell) -> str:
    first = cell.devices[0][0]
    count = speed.devices(cell)
    kind = "stand-in device" if first.startswith("stand-in") else first.partition(":")[0]
    kind = {"cuda": "GPU", "cpu": "CPU rank"}.get(kind, kind)
    return f"{count} {kind}{'s' if count > 1 else ''}"
