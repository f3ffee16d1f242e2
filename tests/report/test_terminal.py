"""A run as text tells what was measured, in words and digits that mean something."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from records import a_baseline, a_cell, a_record, an_environment, some_traces
from rich.console import Console

from perfkit.core.record import DataFacts, Record, StepSample, write_record
from perfkit.core.stats import Interval
from perfkit.report import terminal
from perfkit.report.words import bounds


def printed(record: Record, folder: Path, width: int = 80) -> str:
    write_record(record, folder)
    file = io.StringIO()
    terminal.print_run(folder, Console(file=file, highlight=False, markup=False, width=width))
    return file.getvalue()


def row(text: str, name: str) -> list[str]:
    """Return the cells of a row of a table."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return re.split(r"\s{2,}", line.strip())


@pytest.fixture
def ddp() -> Record:
    """1.6 times the samples/s of serial on one thread, and as many as on two."""
    return a_record(
        a_cell([[0.25, 0.25]] * 4),
        a_baseline([0.2] * 4),
        a_baseline([0.125] * 4, threads=2),
        a_cell([[0.2, 0.2]] * 4, role="ablation", label="ddp, no communication"),
        traces=some_traces([0.5, 0.5]),
        taints=["the fan was loud"],
    )


def test_it_says_what_was_run_on_what_and_that_it_is_a_quick_look(
    ddp: Record, tmp_path: Path
) -> None:
    text = printed(ddp, tmp_path)
    assert "tiny:Tiny under ddp on 2 CPU ranks (quick look)" in text
    assert row(text, "batch")[1] == "local 4, global 8 (weak scaling)"
    assert row(text, "machine")[1] == "A CPU, 4 cores; torch 2.15.0"
    assert row(text, "measured")[1] == "8 timed steps in 4 rounds, one process per cell"
    assert row(text, "correctness")[1] == "equal to serial within 5e-17 after 5 steps in float64"
    assert row(text, "notice")[1] == "the fan was loud"


def test_it_says_where_images_were_preprocessed_and_what_was_seen_to_do_it(tmp_path: Path) -> None:
    here = {"preprocess": "device", "ops": "fused", "implementation": ["fused avx2"] * 2}
    there = {"preprocess": "offline", "implementation": ["reference"] * 2, "stored_s": 3.5}
    variant = a_cell([[0.2]], role="variant", label="serial, 1 thread, preprocess=offline", **there)
    text = printed(a_record(a_cell([[0.1]], **here), variant), tmp_path)
    assert "preprocess     device, fused avx2\n" in text
    assert re.search(r"^preprocess +device +offline\n +fused avx2 +reference\n", text, re.MULTILINE)
    alone = printed(a_record(a_cell([[0.1]], **there)), tmp_path)
    assert row(alone, "preprocess")[1] == "offline, reference; stored before, in 3.50 s"
    assert "preprocess" not in printed(a_record(a_cell([[0.1]])), tmp_path)


def test_it_says_what_ran_the_se_blocks_and_what_the_gate_held_them_against(tmp_path: Path) -> None:
    fused = {"ops": "fused", "squeeze_excites": [{"fused avx2": 12, "reference": 4}]}
    plain = {"ops": "reference", "squeeze_excites": [{"reference": 1}]}
    variant = a_cell([[0.2]], role="variant", label="serial, 1 thread, ops=reference", **plain)
    gate = {"steps": 5, "global_batch": 2, "max_abs_difference": 3e-16, "tolerance": 1e-9}
    seen = {"squeeze_excites": {"fused avx2": 60, "reference": 20}}
    text = printed(a_record(a_cell([[0.1]], **fused), variant, gate=gate | seen), tmp_path)
    assert "squeeze-excite 12 of 16 blocks fused avx2, 4 of 16 blocks reference\n" in text
    assert re.search(r"^squeeze-excite +fused avx2 +reference\n +reference *\n", text, re.MULTILINE)
    held = "equal to serial with reference squeeze-excite within 3e-16 after 5 steps in float64"
    assert held in " ".join(text.split())
    on_gpu = gate | {"squeeze_excites": {"reference": 80}}  # where float64 is for the reference
    alone = printed(a_record(a_cell([[0.1]], **plain), gate=on_gpu), tmp_path)
    assert "squeeze-excite 1 of 1 block reference\n" in alone
    assert row(alone, "correctness")[1] == "equal to serial within 3e-16 after 5 steps in float64"
    assert "squeeze-excite" not in printed(a_record(a_cell([[0.1]])), tmp_path)


def test_it_says_which_parameters_the_weights_lacked(tmp_path: Path) -> None:
    config = {"weights": Path("resnet18.pth")}
    assert row(printed(a_record(a_cell([[0.1]]), config=config), tmp_path), "weights")[1] == (
        "resnet18.pth"
    )
    lacking = a_record(a_cell([[0.1]]), config=config, new_parameters=["fc.weight", "fc.bias"])
    assert row(printed(lacking, tmp_path, width=200), "weights")[1] == (
        "resnet18.pth, which lacks 2 parameters, first fc.weight: these are new"
    )


def test_absolute_costs_stand_beside_those_of_the_baselines(ddp: Record, tmp_path: Path) -> None:
    text = printed(ddp, tmp_path)
    assert row(text, "step time")[1:] == ["250 ms", "200 ms", "125 ms"]
    assert row(text, "samples/s")[1:] == ["32.0", "20.0", "32.0"]
    assert row(text, "epoch, projected")[1:] == ["2.00 s", "3.20 s", "2.00 s"]
    assert row(text, "peak memory per rank")[1:] == ["700 MiB CPU"] * 3
    assert row(text, "loss of last timed step")[1:] == ["0.500"] * 3


def test_under_weak_scaling_it_is_a_throughput_gain_and_no_speedup(
    ddp: Record, tmp_path: Path
) -> None:
    text = printed(ddp, tmp_path)
    assert row(text, "throughput gain, within rounds")[1:] == ["1.60x", "1.00x"]
    assert row(text, "95 % interval")[1:] == ["[1.60, 1.60]", "[1.00, 1.00]"]
    assert row(text, "ceiling of the strategy")[1:] == ["2x"]
    assert "speedup" not in text


def test_efficiency_is_against_one_device_and_not_against_the_cores_of_all(
    ddp: Record, tmp_path: Path
) -> None:
    assert row(printed(ddp, tmp_path), "throughput efficiency")[1:] == ["0.80", "-"]


def test_under_strong_scaling_it_is_a_speedup(tmp_path: Path) -> None:
    record = a_record(
        a_cell([[0.1, 0.1]] * 3, local_batch=2),
        a_baseline([0.15] * 3, local_batch=4),
        config={"local_batch": None, "global_batch": 4},
    )
    text = printed(record, tmp_path)
    assert row(text, "speedup, within rounds")[1:] == ["1.50x"]
    assert row(text, "efficiency")[1:] == ["0.75"]
    assert row(text, "batch")[1] == "local 2, global 4 (strong scaling)"


def test_the_answer_names_the_evidence_the_baseline_and_the_ceiling(
    ddp: Record, tmp_path: Path
) -> None:
    text = printed(ddp, tmp_path, width=200)
    answers = [line for line in text.splitlines() if line.startswith("Worth it?")]
    assert answers == [
        "Worth it?      Yes: 1.60x [1.60, 1.60] the samples/s of serial (1 thread); "
        "the ceiling is 2x.",
        "Worth it?      No gain: 1.00x [1.00, 1.00] the samples/s of serial (2 threads), "
        "which has the cores of all ranks.",
    ]


@pytest.mark.parametrize(
    ("rounds", "answer"),
    [
        ([0.5] * 4, "No: 0.80x"),
        ([0.2, 0.5, 0.25, 0.6], "Undecided, about "),
    ],
)
def test_a_loss_and_an_open_question_are_called_that(rounds: list[float], answer: str) -> None:
    cell = a_cell([[seconds, seconds] for seconds in rounds])
    baseline = a_baseline([0.2] * 4)
    assert terminal.verdict(a_record(cell, baseline), baseline).startswith(answer)


@pytest.mark.parametrize("busy", ["strategy", "baseline"])
def test_a_busy_host_makes_the_answer_doubtful_whatever_was_seen(busy: str) -> None:
    share = {"strategy": 0.0, "baseline": 0.0, busy: 0.11}
    cell = a_cell([[0.1, 0.1]] * 4, foreign=share["strategy"])
    baseline = a_baseline([0.2] * 4, foreign=share["baseline"])
    answer = terminal.verdict(a_record(cell, baseline), baseline)
    assert answer.startswith("Doubtful, other processes kept the host busy; measure again. Seen: 4")


def test_on_a_gpu_without_threads_in_its_name_the_baseline_is_just_serial() -> None:
    cell = a_cell([[0.1, 0.1]] * 4, on_gpu=True, label="ddp, 2 ranks")
    baseline = a_baseline([0.2] * 4, on_gpu=True, label="serial")
    answer = terminal.verdict(a_record(cell, baseline), baseline)
    assert answer == "Yes: 4.00x [4.00, 4.00] the samples/s of serial; the ceiling is 2x."


def test_findings_say_what_communication_and_the_profiler_cost(ddp: Record, tmp_path: Path) -> None:
    text = printed(ddp, tmp_path, width=200)
    assert "20% [20%, 20%] of the step goes to exchanging gradients" in text
    assert "a traced step took 2.00x as long as a timed one" in text


def test_phases_are_in_ms_with_their_share_and_end_with_the_rest(
    ddp: Record, tmp_path: Path
) -> None:
    text = printed(ddp, tmp_path, width=200)
    assert "step of rank 0" in text
    assert row(text, "data wait")[1:] == ["25.0", "10%"]
    assert row(text, "backward")[1:] == ["100.0", "40%"]
    assert row(text, "other")[1:] == ["12.5", "5%"]
    assert "device ms" not in text


def test_phases_of_a_fast_step_keep_three_digits(tmp_path: Path) -> None:
    text = printed(a_record(a_cell([[0.0008]] * 2), gate=None), tmp_path)
    assert row(text, "backward")[1:] == ["0.320", "40%"]
    assert row(text, "step time")[1:] == ["800 us"]


def test_on_a_gpu_the_device_clock_is_a_column_of_its_own(tmp_path: Path) -> None:
    text = printed(a_record(a_cell([[0.25]] * 2, on_gpu=True), gate=None), tmp_path)
    assert "tiny:Tiny under serial on 1 GPU" in text
    assert row(text, "data wait")[1:] == ["25.0", "10%", "12.5"]
    assert row(text, "peak memory per rank")[1:] == ["1,024 MiB GPU"]


def test_model_parallel_says_where_its_stages_lie_and_what_crossed(tmp_path: Path) -> None:
    cell = a_cell(
        [[0.25]] * 2,
        strategy="model_parallel",
        label="model_parallel, 2 threads",
        devices=[["stand-in:0", "stand-in:1"]],
        devices_per_rank=2,
        placement=[0, 1, 0],
        crossings=2,
        communication_s=0.05,
    )
    text = printed(a_record(cell), tmp_path, width=120)
    assert "under model_parallel on 2 stand-in devices, stages on devices 0-1-0" in text
    assert "stages on 2 devices in each rank, 2 crossings between them" in text
    assert row(text, "of which between devices")[1:] == ["50.0", "20%"]


def test_serial_training_alone_has_no_verdict_no_gate_and_no_ceiling(tmp_path: Path) -> None:
    text = printed(a_record(a_cell([[0.2], [0.2]]), gate=None), tmp_path)
    for word in ("Worth it?", "correctness", "ceiling", "efficiency", "trace", "notice"):
        assert word not in text


def test_the_record_and_the_trace_can_be_copied_however_narrow_the_terminal(
    ddp: Record, tmp_path: Path
) -> None:
    folder = tmp_path / ("a-long-name-" * 8)
    folder.mkdir()
    text = printed(ddp, folder, width=40)
    assert f"record         {folder}/record.json\n" in text
    assert f"trace          {folder}/traces/merged.json.gz\n" in text
    assert "2.00 KiB" in text


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_but_a_path_is_wider_than_the_terminal(
    ddp: Record, tmp_path: Path, width: int
) -> None:
    taint = "a notice that goes on and on about something doubtful " * 5
    text = printed(ddp.model_copy(update={"taints": [taint.strip()]}), tmp_path, width=width)
    wide = [line for line in text.splitlines() if len(line.rstrip()) > width]
    assert all(str(tmp_path) in line for line in wide)
    assert len([line for line in text.splitlines() if line.startswith("notice")]) == 1


def test_a_path_inside_a_sentence_stays_in_one_piece(ddp: Record, tmp_path: Path) -> None:
    path = "photos/" + "a-long-folder/" * 8 + "torn.png"
    text = printed(ddp.model_copy(update={"taints": [f"skipped {path} for now"]}), tmp_path)
    assert path in text


def test_brackets_in_names_and_paths_are_printed_as_they_are(
    ddp: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs[bold]"
    folder.mkdir()
    facts = DataFacts(
        name="photos[red]/train",
        train_samples=9,
        samples_per_epoch=9,
        class_counts=[],
        skipped=["[x]/torn.png", "b.png"],
    )
    write_record(ddp.model_copy(update={"data": facts, "taints": ["[y] is odd"]}), folder)
    terminal.print_run(folder)
    text = capsys.readouterr().out
    assert "photos[red]/train" in text
    assert "2 unreadable files skipped, first [x]/torn.png" in text
    assert "[y] is odd" in text
    assert f"{folder}/record.json" in text


def test_to_a_file_nothing_is_wrapped(
    ddp: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ddp.model_copy(update={"environment": an_environment(hardware="x" * 300)})
    write_record(record, tmp_path)
    terminal.print_run(tmp_path)
    text = capsys.readouterr().out
    assert f"{'x' * 300}; torch 2.15.0\n" in text
    assert "\x1b" not in text


def test_an_interrupted_run_and_a_diverged_loss_are_said(tmp_path: Path) -> None:
    cell = a_cell([[0.2]])
    nan = StepSample(host_s=0.2, phases_s={}, device_phases_s={}, communication_s=None, loss=None)
    blocks = [block.model_copy(update={"steps": [nan]}) for block in cell.blocks]
    cell = cell.model_copy(update={"blocks": blocks, "memory": []})
    text = printed(a_record(cell, status="incomplete"), tmp_path)
    assert "(quick look, INCOMPLETE)" in text
    assert row(text, "loss of last timed step")[1:] == ["not finite"]
    assert row(text, "peak memory per rank")[1:] == ["?"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0000315, "31.5 us"),
        (0.0009994, "999 us"),
        (0.001, "1.00 ms"),
        (0.00567, "5.67 ms"),
        (0.0567, "56.7 ms"),
        (0.9994, "999 ms"),
        (1.0, "1.00 s"),
        (2.345, "2.35 s"),
        (119.0, "119 s"),
        (120.0, "2.00 min"),
        (7199.0, "120 min"),
        (7200.0, "2.00 h"),
        (3.6e6, "1,000 h"),
    ],
)
def test_a_duration_is_told_to_three_digits_in_a_unit_that_fits(seconds: float, words: str) -> None:
    assert terminal.duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.01234, "0.0123"), (1.0, "1.00"), (81.26, "81.3"), (213.4, "213"), (12345.6, "12,346")],
)
def test_a_number_is_told_to_three_digits_and_never_with_an_exponent(
    value: float, words: str
) -> None:
    assert terminal.significant(value) == words


@pytest.mark.parametrize(
    ("size_bytes", "words"), [(512, "0.500 KiB"), (54_321, "53.0 KiB"), (5_000_000, "4.77 MiB")]
)
def test_a_size_is_told_in_kib_or_mib(size_bytes: int, words: str) -> None:
    assert terminal.size(size_bytes) == words


def test_an_interval_that_tells_nothing_is_told_as_such() -> None:
    assert bounds(Interval(1.0, 0.5, float("inf"))) == "[too wide to tell]"
    assert bounds(Interval(1.0, 0.0, 2.0)) == "[too wide to tell]"
    assert bounds(Interval(1.0, 0.25, 2.0)) == "[0.25, 2.00]"
