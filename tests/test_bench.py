"""The views of the benchmark cases agree, and measure the perfkit that they say they do."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[1]
BENCH, SUPPORT = CHECKOUT / "bench", CHECKOUT / "tests" / "support"
ASV_VIEW = """
import json, sys
from asv_runner.statistics import compute_stats
from asv_runner.discovery import get_benchmark_from_name
if sys.argv[1] == "fixed":
    import fixed_cases
benchmark = get_benchmark_from_name(sys.argv[2], sys.argv[3])
result = benchmark.do_run()
value, stats = compute_stats(result["samples"], result["number"])
print(json.dumps({"median": value, "samples": stats["repeat"], "unit": benchmark.unit}))
"""
LISTED = """
import json, sys
from asv_runner.discovery import list_benchmarks
list_benchmarks(sys.argv[1], sys.stdout)
sys.path.insert(0, sys.argv[2])
from cases import CASES
from case import UNITS
facts = [[c.name, c.size, list(c.costs), c.version] for c in CASES]
print("\\n" + json.dumps({"cases": facts, "units": UNITS}))
"""


def python(*arguments: str) -> str:
    # pytest-benchmark measures nothing where it believes to be a worker of pytest-xdist.
    environ = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**environ, "PYTHONPATH": f"{SUPPORT}"},
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def module(path: Path) -> ModuleType:
    """Import a file by itself."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


def test_both_views_report_the_same_number_for_the_same_case(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    view = ["-m", "pytest", "bench/", "--benchmark-only", "-q", f"--benchmark-json={report}"]
    python(*view, "-p", "fixed_cases")
    (of_pytest,) = json.loads(report.read_text())["benchmarks"]
    of_asv = json.loads(
        python("-c", ASV_VIEW, "fixed", f"{BENCH / 'history'}", "costs.track_known_samples")
    )
    assert of_pytest["name"] == "test_case[known-samples]"
    assert of_asv == {"median": 0.2, "samples": 5, "unit": "seconds"}
    assert of_pytest["stats"]["median"] == pytest.approx(of_asv["median"], rel=1e-12)
    assert of_pytest["stats"]["rounds"] == of_asv["samples"]
    assert of_pytest["extra_info"]["finding"] == "five samples"


def test_asv_sees_every_cost_of_every_quick_case_with_unit_version_and_time_out() -> None:
    found, known = python("-c", LISTED, f"{BENCH / 'history'}", f"{BENCH}").strip().split("\n")
    benchmarks = {one["name"]: one for one in json.loads(found)}
    cases = json.loads(known)["cases"]
    units = json.loads(known)["units"]
    assert len({name for name, *_ in cases}) == len(cases)
    quick = [case for case in cases if case[1] != "full"]
    assert any(len(costs) > 1 for _, _, costs, _ in quick)
    for name, _, costs, version in quick:
        if len(costs) == 1:
            one = benchmarks.pop(f"costs.track_{name}".replace("-", "_"))
            assert (one["unit"], one["version"]) == (units[costs[0]], version)
            told, command = one["code"].split("\n\n")
            assert told.startswith("Seconds")
            assert command == f"echo {name} | python bench/measure.py"
            assert one["timeout"] >= 600
        for cost in costs if len(costs) > 1 else ():
            shared = benchmarks[f"costs.Strategies.track_{cost}".replace(" ", "_")]
            assert shared["unit"] == units[cost]
            assert repr(name) in shared["params"][0]
    assert all(name.startswith("costs.Strategies.") for name in benchmarks)
    exchange = benchmarks["costs.Strategies.track_exposed_communication"]["params"][0]
    assert "strategy-model-parallel-2" not in " ".join(exchange)


def test_a_perfkit_from_elsewhere_or_of_another_commit_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = module(BENCH / "case.py")
    built = python("-c", "import perfkit.ops; print(perfkit.ops.build_info().commit)").strip()
    for name in ("ASV_ENV_DIR", "ASV_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(case.EXPECTED_FOLDER, f"{CHECKOUT}")
    monkeypatch.setenv(case.EXPECTED_COMMIT, built)
    found = case.measured_perfkit()
    assert (found["perfkit"], found["commit"]) == (f"{CHECKOUT / 'perfkit'}", built)
    monkeypatch.setenv(case.EXPECTED_COMMIT, "0" * 40)
    with pytest.raises(RuntimeError, match=f"built at commit {built}, not at 0000"):
        case.measured_perfkit()
    monkeypatch.setenv(case.EXPECTED_FOLDER, f"{tmp_path}")
    with pytest.raises(RuntimeError, match="perfkit is from"):
        case.measured_perfkit()


def test_of_a_case_in_several_processes_the_least_of_each_is_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = module(BENCH / "case.py")
    turns = iter([[[0.3, 0.2], [0.25]], [[0.5], [0.6, 0.4]], [[0.1], [0.3]]])

    def fresh(name: str, count: int) -> list[Any]:
        assert (name, count) == ("a-case", case.TURNS)
        return [case.Measurement({"seconds": one}, f"{one[0]} s") for one in next(turns)]

    monkeypatch.setattr(case, "in_a_fresh_process", fresh)
    monkeypatch.setattr(case, "measured_perfkit", lambda: {"commit": "abc"})
    found = case.Case("a-case", "group", lambda: None, processes=3).run()
    assert found.costs == {"seconds": [0.2, 0.4, 0.1]}
    assert found.finding == "0.25 s"
    assert found.conditions == {"commit": "abc", "a sample": "least of a fresh process"}


def test_a_fresh_process_measures_a_case_as_often_as_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = module(BENCH / "case.py")
    built = python("-c", "import perfkit.ops; print(perfkit.ops.build_info().commit)").strip()
    monkeypatch.setenv(case.EXPECTED_FOLDER, f"{CHECKOUT}")
    monkeypatch.setenv(case.EXPECTED_COMMIT, built)
    first, second = case.in_a_fresh_process("squeeze-excite-call", 2)
    assert min(*first.costs["seconds"], *second.costs["seconds"]) > 0
    with pytest.raises(RuntimeError, match="KeyError: 'no-such-case'"):
        case.in_a_fresh_process("no-such-case", 1)


def test_the_configuration_of_asv_has_no_key_that_asv_does_not_know() -> None:
    config: Any = pytest.importorskip("asv.config").Config
    template = Path(sys.modules["asv"].__file__ or "").parent / "template" / "asv.conf.json"
    documented = set(re.findall(r'^\s*(?://\s*)?"(\w+)":', template.read_text(), re.MULTILINE))
    asv_util: Any = pytest.importorskip("asv.util")
    ours = asv_util.load_json(f"{CHECKOUT / 'asv.conf.json'}", 1, js_comments=True)
    defaults = vars(config())
    assert set(ours) <= set(defaults) | documented
    for key, value in ours.items():
        default = defaults.get(key)
        if key.endswith("_command"):
            assert all(isinstance(line, str) for line in value)
        elif default is not None:
            kinds = (int, float) if isinstance(default, int | float) else (type(default),)
            assert isinstance(value, kinds), key
    assert ours["launch_method"] == "spawn"
    loaded = config.load(f"{CHECKOUT / 'asv.conf.json'}")
    assert (CHECKOUT / loaded.benchmark_dir / "__init__.py").exists()


def test_packages_are_shared_by_a_line_in_a_pth_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = CHECKOUT / "scripts" / "share_packages.py"
    environment, other = tmp_path / "environment", tmp_path / "other"
    share = module(script)
    for folder in (environment, other):
        share.site_packages(folder).mkdir(parents=True)
    arguments = [f"{environment}", f"{other}"]
    for missing in ("has no torch; run make build", "is no virtual environment"):
        with pytest.raises(SystemExit) as end:
            share.main(arguments)
        assert end.value.code == 2
        assert missing in capsys.readouterr().err
        (share.site_packages(other) / "torch").mkdir(exist_ok=True)
        arguments[0] = f"{tmp_path / 'nowhere'}"
    arguments[0] = f"{environment}"
    assert share.main(arguments) == 0
    (written,) = share.site_packages(environment).glob("*.pth")
    assert written.read_text() == f"{share.site_packages(other)}\n"


@pytest.fixture(scope="module")
def regressions() -> ModuleType:
    return module(CHECKOUT / "scripts" / "regressions.py")


def test_a_regression_is_slower_for_certain_and_by_more_than_is_called_equal(
    regressions: ModuleType,
) -> None:
    steady = [1.0, 1.001, 0.999, 1.0, 1.0005, 0.9995]
    noisy = [1.0, 1.4, 0.8, 1.1, 1.3, 0.9]
    before = {"a": steady, "b": steady, "c": steady, "d": noisy, "e": steady}
    after = {
        "a": [1.1 * value for value in steady[::-1]],
        "b": [1.01 * value for value in steady[::-1]],
        "c": [0.8 * value for value in steady[::-1]],
        "d": [1.1 * value for value in noisy[::-1]],
        "f": steady,
    }
    rows = {row.name: row for row in regressions.compared(before, after)}
    assert list(rows) == ["a", "b", "c", "d"]
    assert {name for name, row in rows.items() if row.is_regression} == {"a"}
    assert rows["b"].verdict.word == "equal"
    text = regressions.table(list(rows.values()))
    assert re.search(r"a .* 1\.100 \[1\.09\d, 1\.10\d\]  REGRESSION", text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--head", "no-such-thing"], "perfkit: error: no-such-thing: no such commit here"),
        (["--rounds", "1"], "--rounds 1: two are the least"),
        (["--cases", "["], "--cases [: is no regular expression"),
        (["--cases", "no-such-case"], "--cases no-such-case: no case is called like that"),
    ],
    ids=["commit", "rounds", "pattern", "cases"],
)
def test_what_cannot_be_compared_ends_with_2_which_no_regression_does(
    regressions: ModuleType,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        regressions.main(arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err
