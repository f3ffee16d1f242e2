"""The libraries are what was promised: stable ABI only, GPU code, facts, clear refusals.

Imports nothing beyond torch, NumPy and pytest: CI runs these under a second torch too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from perfkit.core.errors import PerfkitError
from perfkit.ops import native
from perfkit.ops.native import CPU_LIBRARY, CUDA_LIBRARY, build_info

VERSIONED = re.compile(r"@(GLIBC|GLIBCXX|CXXABI|GCC)_|^_ZNSt15__exception_ptr")  # C, C++ runtime
OF_TORCH = re.compile(r"(aoti_)?torch_\w+")
WEAK = {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__gmon_start__"}


def symbols(library: Path, kind: str) -> set[str]:
    """Return the dynamic symbols of a library: "--undefined-only" or "--defined-only"."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm (binutils)")
    told = subprocess.run(
        [nm, "--dynamic", kind, str(library)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1] for line in told.stdout.splitlines()}


def in_child(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-W", "error", "-c", code]
    environ = {"PATH": "", "PYTHONPATH": ":".join(sys.path), **environ}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("library", [CPU_LIBRARY, CUDA_LIBRARY], ids=lambda path: path.stem)
def test_the_tensor_operators_use_only_the_stable_abi(library: Path) -> None:
    if not library.exists():
        pytest.skip(build_info().cuda_reason)
    needed = symbols(library, "--undefined-only")
    of_torch = {name for name in needed if OF_TORCH.fullmatch(name)}
    assert of_torch
    assert not {name for name in needed - of_torch - WEAK if not VERSIONED.search(name)}


def test_libraries_show_no_symbols_but_python_s_entry() -> None:
    found = {path.name.split(".")[0]: path for path in CPU_LIBRARY.parent.glob("*.so")}
    shown = {name: symbols(path, "--defined-only") for name, path in found.items()}
    assert shown.pop("_native") == {"PyInit__native"}
    assert "libperfkit_cpu" in shown
    assert not set().union(*shown.values())


def test_the_cuda_library_holds_code_for_ampere_and_hopper_and_ptx() -> None:
    info = build_info()
    if info.cuda_toolkit is None:
        pytest.skip(info.cuda_reason)
    triton = find_spec("triton")
    if triton is None or triton.origin is None:
        pytest.skip("needs the cuobjdump that Triton brings")
    cuobjdump = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    held = set()
    for question, ending, prefix in (("elf", "cubin", "sm_"), ("ptx", "ptx", "compute_")):
        command = [str(cuobjdump), f"--list-{question}", str(CUDA_LIBRARY)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        held |= {prefix + number for number in re.findall(rf"\.sm_(\w+)\.{ending}", told)}
    assert held == set(info.cuda_architectures)
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        assert held >= {"sm_80", "sm_90"}
        assert any(name.startswith("compute_") for name in held)


def test_build_facts_are_those_of_this_checkout() -> None:
    info = build_info()
    assert info.torch_abi == "2.11"
    assert re.match(r"\d+\.\d+", info.torch)
    assert info.compiler
    assert info.cuda_reason
    assert bool(info.cuda_architectures) is (info.cuda_toolkit is not None)
    assert info.isa in info.isas
    assert info.isas[0] == "scalar"
    assert info.commit is None or re.fullmatch(r"[0-9a-f]{40}", info.commit)


def test_facts_and_numpy_operators_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from perfkit.ops import native\n"
        "native.build_info()\n"
        "assert 'torch' not in sys.modules\n"
        "assert not {'pydantic', 'rich', 'scipy'} & set(sys.modules)\n"
    )
    done = in_child(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("isa", build_info().isas)
def test_an_instruction_set_that_is_here_can_be_asked_for(isa: str) -> None:
    code = "from perfkit.ops import native\nprint(native.build_info().isa)"
    assert in_child(code, PERFKIT_CPU_ISA=isa).stdout.strip() == isa


@pytest.mark.parametrize("call", ["module", "load", "build_info"])
def test_an_instruction_set_that_is_not_here_is_refused_in_one_line(call: str) -> None:
    code = (
        "from perfkit.core.errors import PerfkitError\n"
        "from perfkit.ops import native\n"
        "try:\n"
        f"    native.{call}()\n"
        "except PerfkitError as error:\n"
        "    print(error)\n"
    )
    values = [("mmx", "mmx"), ("a\nb", r"'a\nb'"), ("\udcff", r"'\udcff'")]
    for asked, shown in values if call == "module" else values[:1]:
        (line,) = in_child(code, PERFKIT_CPU_ISA=asked).stdout.splitlines()
        assert line.startswith(f"PERFKIT_CPU_ISA={shown} is not available here;")
        assert "scalar" in line


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return the operators of a copy of the package, which stands for another checkout."""
    shutil.copytree(CPU_LIBRARY.parents[1], tmp_path / "perfkit")
    return tmp_path / "perfkit" / "ops"


def loaded(package: Path) -> str:
    """Return the one line that loading the copy ends with."""
    code = (
        "from perfkit.core.errors import PerfkitError\n"
        "from perfkit.ops import native\n"
        f"assert native.__file__.startswith({str(package)!r})\n"
        "try:\n"
        "    print(native.load())\n"
        "except PerfkitError as error:\n"
        "    print('error:', error)\n"
    )
    done = in_child(code, PYTHONPATH=":".join([str(package.parents[1]), *sys.path]))
    (line,) = done.stdout.splitlines() or [done.stderr]
    return line


def test_libraries_that_were_never_built_say_what_to_run(package: Path) -> None:
    for library in package.glob("*.so"):
        library.unlink()
    line = loaded(package)
    assert line.startswith("error: ")
    assert "python setup.py build_ext --inplace" in line


@pytest.mark.parametrize("pattern", ["_native*.so", "libperfkit_cpu.so"])
def test_a_library_that_was_cut_short_says_what_to_run(package: Path, pattern: str) -> None:
    (library,) = package.glob(pattern)
    os.truncate(library, library.stat().st_size // 2)
    line = loaded(package)
    assert line.startswith("error: ")
    assert f"{library.name} is damaged" in line
    assert "python setup.py build_ext --inplace" in line


@pytest.fixture
def facts(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(native, "load", native.load.__wrapped__)
    return monkeypatch


@pytest.mark.parametrize("kept_bytes", [0, 64, 5000, -1])
def test_a_cuda_library_that_was_cut_short_is_a_reason(
    facts: pytest.MonkeyPatch, tmp_path: Path, kept_bytes: int
) -> None:
    info = replace(build_info(), cuda_toolkit="13.2")
    facts.setattr(native, "build_info", lambda: info)
    facts.setattr(torch.version, "cuda", "13.2")
    damaged = tmp_path / CUDA_LIBRARY.name
    damaged.write_bytes(CPU_LIBRARY.read_bytes()[:kept_bytes])
    facts.setattr(native, "CUDA_LIBRARY", damaged)
    assert "libperfkit_cuda.so is damaged" in native.load()


def test_another_library_in_the_place_of_the_operators_says_what_to_run(package: Path) -> None:
    (other,) = package.glob("_native*.so")
    shutil.copy(other, package / CPU_LIBRARY.name)
    line = loaded(package)
    assert line.startswith("error: libperfkit_cpu.so holds no native operators; build")


def test_cuda_operators_are_there_or_a_reason_is() -> None:
    reason = native.load()
    if torch.version.cuda is None:
        assert "built without CUDA" in reason
    elif build_info().cuda_toolkit is None:
        assert build_info().cuda_reason in reason
    else:
        assert reason == ""
    if reason:
        with pytest.raises(PerfkitError, match="no native operators for CUDA tensors"):
            native.require_cuda()
    else:
        native.require_cuda()


@pytest.mark.parametrize(
    ("built", "installed", "said"),
    [
        ("13.2", None, "is built without CUDA"),
        (None, "13.2", r"perfkit was built without them \(because\)"),
        ("12.8", "13.2", r"built for CUDA 12.8, and torch is built for 13.2"),
    ],
)
def test_why_there_are_no_cuda_operators_is_told_apart(
    facts: pytest.MonkeyPatch, built: str | None, installed: str | None, said: str
) -> None:
    info = replace(build_info(), cuda_toolkit=built, cuda_reason="because")
    facts.setattr(native, "build_info", lambda: info)
    facts.setattr(torch.version, "cuda", installed)
    assert re.search(said, native.load())
    with pytest.raises(PerfkitError, match=said):
        native.require_cuda()


def arrays(**changed: object) -> dict[str, object]:
    images = np.zeros((1, 4, 5, 3), np.uint8)
    arguments: dict[str, object] = {
        "images": images,
        "table": np.arange(256, dtype=np.uint8),
        "clip_limit": 2.0,
        "columns": 2,
        "rows": 2,
        "out": np.empty_like(images),
        "threads": 1,
    }
    return arguments | changed


@pytest.mark.parametrize(
    "changed",
    [
        {"images": np.zeros((4, 5, 3), np.uint8)},
        {"images": np.zeros((1, 4, 5, 2), np.uint8), "out": np.zeros((1, 4, 5, 2), np.uint8)},
        {"out": np.zeros((1, 4, 4, 3), np.uint8)},
        {"out": np.zeros((1, 4, 5), np.uint8)},
        {"table": np.zeros(255, np.uint8)},
        {"table": np.zeros(512, np.uint8)[::2]},
        {"clip_limit": float("nan")},
        {"clip_limit": -1.0},
        {"columns": 0},
        {"rows": -1},
        {"threads": 0},
    ],
    ids=",".join,
)
def test_the_bare_numpy_binding_refuses_what_it_cannot_run_on(changed: dict[str, object]) -> None:
    with pytest.raises(RuntimeError, match=r"^clahe_gamma_median: `.*` must be"):
        native.module().clahe_gamma_median(**arrays(**changed))


def test_the_bare_numpy_binding_never_copies_or_writes_what_is_not_its_own() -> None:
    run = native.module().clahe_gamma_median
    with pytest.raises(TypeError):
        run(**arrays(images=np.zeros((1, 4, 5, 3), np.int64)))
    with pytest.raises(TypeError):
        run(**arrays(out=np.zeros((1, 4, 5, 3), np.float32)))
    fixed = np.zeros((1, 4, 5, 3), np.uint8)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        run(**arrays(out=fixed))
    whole = np.zeros((2, 4, 5, 3), np.uint8)
    with pytest.raises(RuntimeError, match="apart from"):
        run(**arrays(images=whole[:1], out=whole[:1]))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_number_of_threads_changes_no_byte(threads: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 33, 47, 3), np.uint8)
    alone, together = np.empty_like(images), np.zeros_like(images)
    native.module().clahe_gamma_median(**arrays(images=images, out=alone))
    native.module().clahe_gamma_median(**arrays(images=images, out=together, threads=threads))
    assert np.array_equal(alone, together)
    assert not np.array_equal(alone, images)
