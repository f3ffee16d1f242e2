"""What setup.py decides about CUDA, and why; with toolkits and torches that only pretend."""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {version}, V{version}.86" ;;
--dryrun) echo "#$ _HERE_={root}/bin" >&2; echo "#$ TOP={root}/bin/.." >&2 ;;
--list-gpu-arch) printf 'compute_%s\\n' {known} ;;
esac
"""
PARTS = ("include/cuda_runtime.h", "nvvm/bin/cicc", "lib/libcudart_static.a")


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, on a machine without any toolkit."""
    spec = importlib.util.spec_from_file_location("perfkit_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "packages", lambda: iter([tmp_path / "site-packages"]))
    monkeypatch.setattr(module, "USUAL_TOOLKIT", tmp_path / "usual")
    return module


def toolkit(root: Path, version: str, known: str = "80 86 90 100 120", without: str = "") -> Path:
    """Make a folder that looks like a CUDA toolkit, and return it."""
    nvcc = root / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(NVCC.format(version=version, root=root, known=known))
    nvcc.chmod(0o755)
    for part in PARTS:
        if part != without:
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            (root / part).touch()
    return root


def decide(setup: ModuleType, cuda: str | None, **environ: object) -> tuple[str, str]:
    """Return the chosen toolkit's version, empty for none, and the reason."""
    torch = setup.Torch(Path("torch"), "2.15.0", cuda)
    plan = setup.decide_cuda(torch, {name: str(value) for name, value in environ.items()})
    assert bool(plan.toolkit) is bool(plan.capabilities)
    return (plan.toolkit.version if plan.toolkit else ""), plan.reason


def test_without_a_toolkit_there_are_no_cuda_operators_and_the_way_to_one_is_told(
    setup: ModuleType,
) -> None:
    version, reason = decide(setup, "13.2")
    assert version == ""
    assert reason.startswith("no CUDA toolkit is here")
    assert "pip install 'cuda-toolkit[nvcc]==13.2.*'" in reason


def test_a_torch_without_cuda_gets_none(setup: ModuleType, tmp_path: Path) -> None:
    home = toolkit(tmp_path / "cuda", "13.2")
    assert decide(setup, None, CUDA_HOME=home) == ("", "torch 2.15.0 is built without CUDA")


@pytest.mark.parametrize("where", ["CUDA_HOME", "PATH", "packages from PyPI", "usual"])
def test_a_toolkit_is_found_in_each_of_its_places(
    setup: ModuleType, tmp_path: Path, where: str
) -> None:
    folder = "site-packages/nvidia/cu13" if where == "packages from PyPI" else "usual"
    root = toolkit(tmp_path / folder, "13.2")
    if where != "usual":
        setup.USUAL_TOOLKIT = tmp_path / "nowhere"
    bin_folder = "/usr/bin:/bin" + (f":{root}/bin" if where == "PATH" else "")
    home = {"CUDA_HOME": root} if where == "CUDA_HOME" else {}
    version, reason = decide(setup, "13.2", PATH=bin_folder, **home)
    assert version == "13.2"
    assert where in reason
    assert "torch's own version" in reason


def test_a_wrapper_on_path_leads_to_the_toolkit_behind_it(
    setup: ModuleType, tmp_path: Path
) -> None:
    root = toolkit(tmp_path / "real", "13.2")
    wrapper = tmp_path / "wrapped" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {root}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    plan = setup.decide_cuda(
        setup.Torch(Path("torch"), "2.15.0", "13.2"), {"PATH": str(wrapper.parent)}
    )
    assert plan.toolkit.root == root
    assert plan.toolkit.libraries == root / "lib"


def test_torch_s_own_version_goes_before_the_first_of_its_major_version(
    setup: ModuleType, tmp_path: Path
) -> None:
    on_path = toolkit(tmp_path / "cuda-13.0", "13.0") / "bin"
    assert decide(setup, "13.2", PATH=on_path) == (
        "13.0",
        "nvcc 13.0 (nvcc on PATH), of torch's major version (13.2)",
    )
    toolkit(tmp_path / "site-packages" / "nvidia" / "cu13", "13.2")
    assert decide(setup, "13.2", PATH=on_path)[0] == "13.2"


def test_cuda_home_is_the_user_s_word(setup: ModuleType, tmp_path: Path) -> None:
    toolkit(tmp_path / "site-packages" / "nvidia" / "cu13", "13.2")
    same_major = toolkit(tmp_path / "cuda-13.0", "13.0")
    assert decide(setup, "13.2", CUDA_HOME=same_major)[0] == "13.0"
    other = toolkit(tmp_path / "cuda-12.8", "12.8")
    version, reason = decide(setup, "13.2", CUDA_HOME=other)
    assert version == ""
    assert reason == f"torch is built for CUDA 13.2, and CUDA_HOME={other} is CUDA 12.8"


def test_another_major_version_is_not_used(setup: ModuleType, tmp_path: Path) -> None:
    on_path = toolkit(tmp_path / "cuda-12.8", "12.8") / "bin"
    version, reason = decide(setup, "13.2", PATH=on_path)
    assert version == ""
    assert reason == "torch is built for CUDA 13.2, and nvcc on PATH is CUDA 12.8"


@pytest.mark.parametrize("part", PARTS)
def test_half_a_toolkit_is_named_with_what_it_lacks(
    setup: ModuleType, tmp_path: Path, part: str
) -> None:
    home = toolkit(tmp_path / "cuda", "13.2", without=part)
    version, reason = decide(setup, "13.2", CUDA_HOME=home)
    assert version == ""
    assert f"{home} has no {part.rpartition('lib/')[2]}" in reason


def test_a_cuda_home_without_a_compiler_is_named(setup: ModuleType, tmp_path: Path) -> None:
    version, reason = decide(setup, "13.2", CUDA_HOME=tmp_path)
    assert version == ""
    assert reason.endswith(f"{tmp_path}/bin/nvcc does not run")


def test_perfkit_cuda_0_wants_none(setup: ModuleType, tmp_path: Path) -> None:
    home = toolkit(tmp_path / "cuda", "13.2")
    assert decide(setup, "13.2", CUDA_HOME=home, PERFKIT_CUDA=0) == ("", "PERFKIT_CUDA=0")


@pytest.mark.parametrize(("cuda", "said"), [("13.2", "no CUDA toolkit"), (None, "without CUDA")])
def test_perfkit_cuda_1_makes_their_lack_an_error_of_one_line(
    setup: ModuleType, cuda: str | None, said: str
) -> None:
    with pytest.raises(SystemExit) as error:
        decide(setup, cuda, PERFKIT_CUDA=1)
    (line,) = str(error.value).splitlines()
    assert line.startswith("perfkit: error: PERFKIT_CUDA=1, but ")
    assert said in line


def test_another_perfkit_cuda_is_refused(setup: ModuleType) -> None:
    with pytest.raises(SystemExit, match="PERFKIT_CUDA=yes: 0"):
        decide(setup, "13.2", PERFKIT_CUDA="yes")


def capabilities(setup: ModuleType, root: Path, asked: str, known: str) -> list[str]:
    one = setup.inspect_toolkit("here", toolkit(root, "13.2", known) / "bin" / "nvcc")
    chosen = setup.choose_capabilities(one, asked)
    return [held for capability in chosen for held in setup.architectures(capability)]


@pytest.mark.parametrize(
    ("asked", "known", "held"),
    [
        ("", "80 90 100 120", ["sm_80", "sm_90", "compute_90", "sm_100", "sm_120"]),
        (" ", "80 90", ["sm_80", "sm_90", "compute_90"]),
        (" ;,", "80 90", ["sm_80", "sm_90", "compute_90"]),
        ("8.6", "80 86 90", ["sm_86"]),
        (",8.0;", "80 90", ["sm_80"]),
        ("8.0;9.0a+PTX", "80 90", ["sm_80", "sm_90a", "compute_90a"]),
        ("8.0 12.0+PTX", "80 120", ["sm_80", "sm_120", "compute_120"]),
    ],
)
def test_code_is_for_what_was_asked_or_for_all_that_nvcc_knows_of_the_default(
    setup: ModuleType, tmp_path: Path, asked: str, known: str, held: list[str]
) -> None:
    assert capabilities(setup, tmp_path / "cuda", asked, known) == held


@pytest.mark.parametrize(
    ("asked", "said"),
    [("Hopper", "Hopper is not of the form"), ("9.0;7.0", "has no 7.0"), ("90", "90 is not")],
)
def test_a_wrong_architecture_is_refused_by_name(
    setup: ModuleType, tmp_path: Path, asked: str, said: str
) -> None:
    with pytest.raises(SystemExit, match=f"TORCH_CUDA_ARCH_LIST={asked}: .*{said}"):
        capabilities(setup, tmp_path / "cuda", asked, "80 90")


def test_torch_is_found_without_being_imported(setup: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "site-packages" / "torch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemError")
    for version, cuda in (("2.15.0+cu132", "13.2"), ("2.11.0+cpu", None)):
        (folder / "version.py").write_text(f"__version__ = {version!r}\ncuda = {cuda!r}\n")
        assert setup.find_torch() == (folder, version, cuda)
    (folder / "version.py").write_text("__version__ = '2.10.1'\ncuda = None\n")
    with pytest.raises(SystemExit, match=r"torch 2.10.1 is too old; perfkit needs 2.11"):
        setup.find_torch()


def test_without_torch_the_build_says_in_one_line_what_to_do(setup: ModuleType) -> None:
    with pytest.raises(SystemExit) as error:
        setup.find_torch()
    (line,) = str(error.value).splitlines()
    assert "install torch first" in line
    assert "--no-build-isolation" in line


def test_the_commit_is_that_of_this_checkout_and_of_no_other(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    if subprocess.run([*git, "init", "-q"], check=False, capture_output=True).returncode:
        pytest.skip("needs git")
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    monkeypatch.setattr(setup, "HERE", tmp_path)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert setup.git_commit() == commit.stdout.strip()
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(setup, "HERE", tmp_path / "unpacked")
    assert setup.git_commit() is None


def test_folders_with_blanks_and_dollars_are_compiled_in(setup: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "a b$c"
    ninja = setup.Ninja(folder, {"cxx": ["g++"]})
    source = setup.write_if_changed(folder / "one.cpp", "const char* text = TEXT;\n")
    (made,) = ninja.compile(['-DTEXT="$x y"'], source)
    ninja.run()
    assert b"$x y" in made.read_bytes()


def test_a_changed_list_of_exports_links_again(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = setup.write_if_changed(tmp_path / "exports.map", "{ global: one; local: *; };\n")
    monkeypatch.setattr(setup, "EXPORTS", exports)
    monkeypatch.setattr(setup, "LINK_FLAGS", ["-shared", f"-Wl,--version-script={exports}"])
    ninja = setup.Ninja(tmp_path, {"cxx": ["g++"]})
    source = setup.write_if_changed(tmp_path / "two.cpp", 'extern "C" int one() { return 1; }\n')
    library = ninja.add("link", tmp_path / "two.so", ninja.compile(["-fPIC"], source), [])
    ninja.run()
    # dlopen knows what it has loaded by its name.
    assert hasattr(ctypes.CDLL(str(shutil.copy2(library, tmp_path / "first.so"))), "one")
    exports.write_text("{ local: *; };\n")
    ninja.run()
    assert not hasattr(ctypes.CDLL(str(shutil.copy2(library, tmp_path / "second.so"))), "one")


@pytest.mark.parametrize("jobs", ["abc", "-3", "1.5", "0", "٣", "9999999999"])
def test_a_wrong_max_jobs_is_refused_before_anything_is_written(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    monkeypatch.setenv("MAX_JOBS", jobs)
    with pytest.raises(SystemExit) as error:
        setup.Ninja(tmp_path / "build", {"cxx": ["g++"]}).run()
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"perfkit: error: MAX_JOBS={jobs}: ")
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("cxx", "said"),
    [("'g++", r"CXX='g\+\+ is no command"), ("no-such-c++ -m64", r"no-such-c\+\+ -m64")],
)
def test_a_wrong_cxx_is_named_in_one_line(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, cxx: str, said: str
) -> None:
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(SystemExit, match=said) as error:
        setup.find_compiler()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("cxx", ["", " "])
def test_an_empty_cxx_is_none(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, cxx: str) -> None:
    monkeypatch.setenv("CXX", cxx)
    assert setup.find_compiler()[0] == ["g++"]


def build_ext(setup: ModuleType) -> Any:
    command = setup.BuildNative(setup.setuptools.Distribution())
    command.inplace = True
    return command


def test_a_build_folder_that_cannot_be_written_is_named_in_one_line(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERFKIT_CUDA", raising=False)
    monkeypatch.setattr(setup, "HERE", tmp_path)
    monkeypatch.setattr(setup, "find_torch", lambda: setup.Torch(tmp_path, "2.15.0", None))
    (tmp_path / "build").touch()
    with pytest.raises(SystemExit) as error:
        build_ext(setup).run()
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"perfkit: error: {tmp_path}/build/native-")
    assert "Not a directory" in line
    assert line.endswith("have to be folders with room to write")


def test_a_full_disk_under_the_package_is_told_in_one_line(
    setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(setup, "HERE", tmp_path)
    monkeypatch.setattr(setup, "build", lambda folder: [folder / setup.CPU])
    monkeypatch.setattr(setup.shutil, "copy2", full)
    with pytest.raises(SystemExit) as error:
        build_ext(setup).run()
    (line,) = str(error.value).splitlines()
    assert f"{tmp_path}/perfkit/ops cannot be written ([Errno 28] No space left" in line


def test_setup_py_does_not_load_torch() -> None:
    code = "import sys, runpy; runpy.run_path('setup.py'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
