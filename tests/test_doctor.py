"""The command says what can be run and why not the rest, to people and to programs."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
import torch
from machines import H200, machine, nvidia_smi, torch_with
from rich.console import Console

from perfkit import doctor
from perfkit.core import cli
from perfkit.measure.capabilities import PROBES, Capabilities, find_capabilities
from perfkit.report.doctor import print_capabilities

NO_GPU = machine()
TWO_GPUS = machine(torch=torch_with(H200, H200), programs={"nvidia-smi": nvidia_smi(H200, H200)})


def printed(found: Capabilities, width: int) -> list[str]:
    out = StringIO()
    print_capabilities(found, Console(file=out, width=width, markup=False, highlight=False))
    return out.getvalue().splitlines()


def test_it_prints_a_line_for_everything_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(doctor.main, []) == 0
    told = capsys.readouterr()
    assert told.err == ""
    for name in ("cores", "CUDA", "gloo", "nccl", "bf16 (CPU)", "ddp", "mpirun", "nsys"):
        assert f" {name} " in told.out


def test_json_is_one_object_on_stdout_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(doctor.main, ["--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert set(found) == {"hostname", "versions", *PROBES}
    assert found["versions"]["torch"] == torch.__version__
    serial = next(row for row in found["strategies"] if row["name"] == "serial")
    assert serial["available"] is True


def test_what_is_there_in_part_and_not_at_all_has_a_word_each() -> None:
    lines = printed(find_capabilities(NO_GPU), width=200)
    (ddp,) = [line for line in lines if " ddp " in line]
    (serial,) = [line for line in lines if " serial " in line]
    (nccl,) = [line for line in lines if " nccl " in line]
    assert [line.split()[0] for line in (serial, ddp, nccl)] == ["ok", "but", "no"]
    assert ddp.endswith("--gpus 2: 2 gloo ranks on the CPU; real devices: 2 GPUs needed, none here")


@pytest.mark.parametrize("asked", [NO_GPU, TWO_GPUS], ids=["no GPU", "two GPUs"])
def test_it_fits_80_columns_with_every_text_in_one_column(asked: Any) -> None:
    found = find_capabilities(asked)
    lines = printed(found, width=80)
    assert max(map(len, lines)) <= 80
    assert not any(line != line.rstrip() for line in lines)
    column = next(line.index("8, all") for line in lines if " cores " in line)
    rows = [row for group in PROBES for row in getattr(found, group)]
    starts = [line for line in lines if line.startswith("  ") and line[2] != " "]
    assert len(starts) == len(rows)
    for line in starts:
        assert line[column - 1] == " " != line[column]


def test_names_in_brackets_are_printed_as_they_are() -> None:
    found = find_capabilities(NO_GPU).model_copy(update={"hostname": "[red]host[/red]"})
    assert printed(found, width=80)[0].startswith("[red]host[/red]: perfkit ")


def test_a_torch_that_cannot_be_imported_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imported = builtins.__import__

    def without_torch(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "torch":
            raise ImportError("libcudart.so.13: cannot open shared object file\nmore")
        return imported(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert cli.run(doctor.main, []) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "perfkit: error: torch cannot be imported (libcudart.so.13: cannot open shared object "
        "file); install it anew\n"
    )


def test_it_runs_as_a_module_and_help_does_not_load_torch() -> None:
    code = (
        "import sys\n"
        "from perfkit import doctor\n"
        "try:\n"
        "    doctor.main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    command = [sys.executable, "-W", "error", "-m", "perfkit.doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["hostname"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_machine_with_gpus_each_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(doctor.main, ["--json"]) == 0
    cuda, *gpus = json.loads(capsys.readouterr().out)["gpus"]
    assert cuda["available"]
    assert [gpu["name"] for gpu in gpus] == [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    assert torch.cuda.get_device_name(0) in gpus[0]["detail"]
