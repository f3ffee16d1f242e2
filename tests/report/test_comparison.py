"""Runs side by side: absolute costs always, a ratio only where there is one, every sample drawn."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from records import a_baseline, a_cell, a_record, an_environment
from rich.console import Console

from perfkit.core.errors import PerfkitError
from perfkit.core.record import Record
from perfkit.report.comparison import draw_comparison, measured, print_comparison

LEGEND_DOTS = 2  # one round, one step
SVG = "{http://www.w3.org/2000/svg}"

SERIAL = a_record(a_cell([[0.2], [0.2]]), name="first")
DDP = a_record(
    a_cell([[0.25, 0.25], [0.25, 0.25]]),
    a_baseline([0.2, 0.2]),
    name="second",
    taints=["something [was] odd"],
)
ELSEWHERE = a_record(
    a_cell([[0.002], [0.002]]),
    name="third",
    environment=an_environment(hardware="Another CPU, 4 cores"),
    status="incomplete",
)


def printed(*records: Record, width: int = 80) -> str:
    file = io.StringIO()
    print_comparison(records, Console(file=file, highlight=False, markup=False, width=width))
    return file.getvalue()


def table_row(text: str, letter: str) -> list[str]:
    """Return the cells of the row of a run: the line that starts with its letter and has costs."""
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines() if line.startswith(letter)]
    (cells,) = [row for row in rows if len(row) > 4]
    return cells


def test_each_run_has_a_row_of_absolute_costs_and_its_ratio_to_the_first() -> None:
    text = printed(SERIAL, DDP)
    assert table_row(text, "A") == [
        *("A", "200 ms", "20.0", "3.20 s", "3.00 s", "700 MiB CPU", "4", "0.500", "1.00x")
    ]
    assert table_row(text, "B") == [
        *("B", "250 ms", "32.0", "2.00 s", "3.00 s", "700 MiB CPU", "8", "0.500", "1.60x")
    ]


def test_each_letter_is_explained_and_what_is_doubtful_is_said_under_it() -> None:
    text = printed(SERIAL, DDP)
    assert "A  first: tiny:Tiny under serial on 1 CPU rank (quick look)\n" in text
    assert "B  second: tiny:Tiny under ddp on 2 CPU ranks (quick look)\n" in text
    assert "B  something [was] odd\n" in text


def test_the_options_in_which_a_run_differs_from_the_first_are_named() -> None:
    other = a_record(a_cell([[0.2]], workers=2), name="other", config={"workers": 2, "seed": 5})
    text = printed(SERIAL, other, width=200)
    assert "B  differs from A in seed=5 (A: 0), workers=2 (A: 0)\n" in text
    assert "differs" not in printed(SERIAL, SERIAL)


def test_a_variant_beside_a_run_is_drawn_as_no_serial_baseline(tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    for role in ("baseline", "variant"):
        beside = a_baseline([0.1, 0.1], role=role)
        with mpl.rc_context({"svg.fonttype": "none"}):
            draw_comparison([a_record(a_cell([[0.2], [0.2]]), beside)], path)
        drawn = path.read_text()
        assert ("serial on one device" in drawn) == (role == "baseline")
        assert ("ceiling of the strategy" in drawn) == (role == "baseline")


def test_how_images_were_preprocessed_is_said_where_it_differs() -> None:
    loader, device = (
        a_record(a_cell([[0.2]], preprocess=where, implementation=[what] * 2), name=where)
        for where, what in (("loader", "reference"), ("device", "fused cuda"))
    )
    text = printed(loader, device, width=120)
    assert (
        "A  loader: tiny:Tiny under serial on 1 CPU rank (quick look), preprocess: loader, " in text
    )
    assert text.count("preprocess: device, fused cuda\n") == 1
    assert "preprocess" not in printed(device, device)


def test_a_phase_is_drawn_only_where_some_run_has_it(tmp_path: Path) -> None:
    assert "preprocess" not in svg([SERIAL], tmp_path)
    step = SERIAL.cells[0].blocks[0].steps[0]
    longer = step.model_copy(update={"phases_s": {**step.phases_s, "preprocess": 0.01}})
    block = SERIAL.cells[0].blocks[0].model_copy(update={"steps": [longer]})
    cell = SERIAL.cells[0].model_copy(update={"blocks": [block]})
    record = SERIAL.model_copy(update={"cells": [cell]})
    assert "preprocess" in svg([SERIAL, record], tmp_path)


def test_across_hardware_the_costs_stay_and_the_reason_stands_for_the_ratio() -> None:
    text = printed(SERIAL, ELSEWHERE)
    assert table_row(text, "B")[1:3] == ["2.00 ms", "2,000"]
    assert table_row(text, "B")[-1] == "-"
    assert "B  has no ratio to A: other hardware\n" in text
    assert "INCOMPLETE" in text


def test_the_table_of_many_runs_fits_a_terminal_of_80_columns() -> None:
    text = printed(*[SERIAL, DDP, ELSEWHERE] * 2)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert table_row(text, "F")[1] == "2.00 ms"


def test_a_run_in_which_nothing_was_timed_is_refused_by_its_path() -> None:
    empty = a_record(a_cell([]), status="incomplete")
    paths = [Path("runs/a"), Path("runs/b")]
    with pytest.raises(PerfkitError, match=r"^runs/b: the run stopped before"):
        measured([SERIAL, empty], paths)
    assert measured([SERIAL, DDP], paths) == [SERIAL, DDP]


@pytest.mark.parametrize(
    ("name", "magic"), [("c.png", b"\x89PNG"), ("c.svg", b"<?xml"), ("C.PDF", b"%PDF")]
)
def test_the_figure_is_written_in_the_format_that_its_name_asks_for(
    tmp_path: Path, name: str, magic: bytes
) -> None:
    path = tmp_path / "figures" / name
    draw_comparison([SERIAL, DDP, ELSEWHERE], path)
    assert path.read_bytes().startswith(magic)
    assert list(path.parent.iterdir()) == [path]


def svg(records: list[Record], tmp_path: Path) -> str:
    path = tmp_path / "figure.svg"
    with mpl.rc_context({"svg.fonttype": "none"}):  # text stays text
        draw_comparison(records, path)
    return path.read_text(encoding="utf-8")


def test_the_figure_has_axes_with_units_and_names_every_run(tmp_path: Path) -> None:
    drawn = svg([SERIAL, DDP], tmp_path)
    for words in (
        "tiny:Tiny on A CPU, 4 cores",
        "samples per second over all ranks",
        "milliseconds per step of the slowest rank (host clock)",
        "first",
        "second",
        "on 2 CPU ranks",
        "ceiling of the strategy",
        "data wait",
        "32.0/s",
        "250 ms",
    ):
        assert f">{words}<" in drawn


def test_a_step_of_seconds_is_drawn_in_seconds(tmp_path: Path) -> None:
    drawn = svg([a_record(a_cell([[2.5], [2.5]]))], tmp_path)
    assert ">seconds per step of the slowest rank (host clock)<" in drawn


def dots(drawn: str) -> int:
    """Count the dots of all scatter plots in the figure."""
    groups = ElementTree.fromstring(drawn).iter(f"{SVG}g")
    scattered = [group for group in groups if group.get("id", "").startswith("PathCollection")]
    return sum(len(list(group.iter(f"{SVG}use"))) for group in scattered)


def test_every_round_and_every_step_is_a_dot(tmp_path: Path) -> None:
    record = a_record(a_cell([[0.2], [0.2], [0.2]], steps=4))
    assert dots(svg([record], tmp_path)) == LEGEND_DOTS + 3 + 3 * 4
    assert dots(svg([record, record], tmp_path)) == LEGEND_DOTS + 2 * (3 + 3 * 4)


def test_without_a_baseline_no_ceiling_is_drawn(tmp_path: Path) -> None:
    assert "ceiling" not in svg([SERIAL], tmp_path)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_figure_of_any_number_of_runs_has_ink_all_over_it(tmp_path: Path, count: int) -> None:
    path = tmp_path / "figure.png"
    draw_comparison([SERIAL, DDP, ELSEWHERE, DDP, DDP, SERIAL][:count], path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] == 1950
    inked = pixels < 250
    assert [part.mean() > 0.01 for part in np.array_split(inked, 4, axis=1)] == [True] * 4


@pytest.mark.parametrize("name", ["figure.gif", "figure", "figure.png.txt"])
def test_another_format_is_refused_with_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(PerfkitError, match=r"has to end in one of \.png, \.svg, \.pdf"):
        draw_comparison([SERIAL], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    taken = tmp_path / "figure.png"
    taken.mkdir()
    with pytest.raises(PerfkitError, match=r"--figure .*figure\.png: cannot be written"):
        draw_comparison([SERIAL], taken)
    assert list(tmp_path.iterdir()) == [taken]
