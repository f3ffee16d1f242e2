"""Results that asv keeps of a commit are read with their samples, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from asv_results import COMMIT, kept

from perfkit.core.asv_results import Benchmark, read_commit
from perfkit.core.errors import PerfkitError


def test_samples_come_with_unit_and_version_and_a_value_of_each_parameter(tmp_path: Path) -> None:
    kept(
        tmp_path,
        {"costs.track_a": [[1.0, 2.0]], "costs.track_b": [[3.0], [4.0, 5.0]]},
        params={"costs.track_b": [["'ddp'", "'serial'"]]},
    )
    found = read_commit(tmp_path, COMMIT)
    assert (found.commit, found.machine, found.environment) == (COMMIT, "vm", "virtualenv-py3.11")
    assert found.benchmarks == {
        "costs.track_a": Benchmark([1.0, 2.0], "seconds", "1"),
        "costs.track_b('ddp')": Benchmark([3.0], "seconds", "1"),
        "costs.track_b('serial')": Benchmark([4.0, 5.0], "seconds", "1"),
    }


def test_what_was_skipped_or_failed_is_left_out(tmp_path: Path) -> None:
    kept(tmp_path, {"costs.track_a": [[1.0, 2.0]], "costs.track_b": [None], "costs.track_c": None})
    assert list(read_commit(tmp_path, COMMIT).benchmarks) == ["costs.track_a"]


def test_nothing_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PerfkitError, match=r"no results of commit abcdef01.*--record-samples"):
        read_commit(tmp_path, COMMIT)
    kept(tmp_path, {"costs.track_a": None})
    with pytest.raises(PerfkitError, match=r"has no samples.*--record-samples"):
        read_commit(tmp_path, COMMIT)


def test_results_of_two_machines_are_not_mixed_and_one_can_be_named(tmp_path: Path) -> None:
    for samples, machine in (([1.0], "vm"), ([2.0], "cluster")):
        kept(tmp_path, {"costs.track_a": [samples]}, machine=machine)
    with pytest.raises(PerfkitError, match="several results of one commit"):
        read_commit(tmp_path, COMMIT)
    found = read_commit(tmp_path / "cluster", COMMIT)
    assert found.benchmarks == {"costs.track_a": Benchmark([2.0], "seconds", "1")}


@pytest.mark.parametrize(
    "samples",
    [[None, 1.0], ["x"], [[1.0]], [True], [-1.0], [5e-324], [1e308], [float("nan")]],
    ids=repr,
)
def test_samples_that_are_no_costs_are_refused(tmp_path: Path, samples: Any) -> None:
    kept(tmp_path, {"costs.track_a": [samples]})
    with pytest.raises(PerfkitError, match=r"the samples of costs\.track_a are no costs"):
        read_commit(tmp_path, COMMIT)


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"version": 1}', b'{"version": 2}', b'{"version": 2, "results": []}']
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = kept(tmp_path, {"costs.track_a": [[1.0]]})
    file.write_bytes(content)
    with pytest.raises(PerfkitError, match=file.name) as error:
        read_commit(tmp_path, COMMIT)
    assert "\n" not in str(error.value)


def test_what_asv_itself_writes_is_read(tmp_path: Path) -> None:
    asv_results: Any = pytest.importorskip("asv.results")
    benchmark = {"name": "costs.track_a", "version": "7", "params": []}
    skipped = {"name": "costs.track_b", "version": "1", "params": []}
    written = asv_results.Results({"machine": "vm"}, {}, COMMIT, 0, "3.11", "virtualenv-py3.11", {})
    runner: Any = pytest.importorskip("asv.runner")
    result = runner.BenchmarkResult([1.5], [[1.0, 2.0]], [1], 0, "", None)
    written.add_result(benchmark, result, record_samples=True)
    nothing = runner.BenchmarkResult([float("nan")], [None], [None], 0, "", None)
    written.add_result(skipped, nothing, record_samples=True)
    (tmp_path / "vm").mkdir()
    written.save(str(tmp_path))
    (tmp_path / "benchmarks.json").write_bytes(
        orjson.dumps({"costs.track_a": {"unit": "MiB"}, "version": 2})
    )
    assert "NaN" in next((tmp_path / "vm").iterdir()).read_text()  # no JSON, strictly speaking
    found = read_commit(tmp_path, COMMIT)
    assert found.benchmarks == {"costs.track_a": Benchmark([1.0, 2.0], "MiB", "7")}
