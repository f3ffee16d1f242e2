"""Build perfkit's native code with ninja: three libraries that land in perfkit/ops.

    libperfkit_cpu.so    tensor operators on the CPU; torch's stable ABI, any torch from 2.11 on
    libperfkit_cuda.so   the same on CUDA; built where a toolkit that fits torch is found
    _native.<abi>.so     facts and the NumPy entry, by pybind11; needs no torch

PERFKIT_CUDA=0 leaves the CUDA operators out, =1 makes it an error to lack a toolkit; CUDA_HOME,
TORCH_CUDA_ARCH_LIST, CXX, MAX_JOBS as everywhere. torch is looked for, not imported, and no build
requirement: pip would fetch gigabytes of it into each isolated environment.
"""

import importlib.util
import json
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import setuptools
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
CSRC = HERE / "csrc"
PACKAGE = Path("perfkit", "ops")
EXPORTS = CSRC / "exports.map"
CPU, CUDA = "libperfkit_cpu.so", "libperfkit_cuda.so"
NOT_KERNELS = ("schema.cpp", "module.cpp", "cpu.cpp", "cuda.cpp")
NATIVE = "_native" + str(sysconfig.get_config_var("EXT_SUFFIX"))

# The oldest torch that the operators run under, and the same for torch's headers.
LEAST_TORCH, STABLE_ABI = (2, 11), "0x020b000000000000"
USUAL_TOOLKIT = Path("/usr/local/cuda")
# Compute capabilities with code of their own, where nvcc knows them, and the one whose PTX goes
# along: a driver compiles it for every GPU since then that has none.
CAPABILITIES, PTX = ("8.0", "9.0", "10.0", "12.0"), "9.0"

# Products and sums are rounded one by one (the bytes have to match OpenCV's). No -march=native: a
# library runs on other machines than the one it was built on.
CXX_FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
CXX_FLAGS += ["-Wall", "-Wextra", "-Wno-restrict", f"-I{CSRC}"]  # restrict: g++ 12 errs on strings
NVCC_FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-fmad=false", "-lineinfo", "--threads=2"]
NVCC_FLAGS += [f"-I{CSRC}", "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off,-Wall,-Wextra"]
LINK_FLAGS = ["-shared", f"-Wl,--version-script={EXPORTS}"]
STABLE_FLAGS = [f"-DTORCH_TARGET_VERSION={STABLE_ABI}"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
AVX512 += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # g++ 12 errs on its own intrinsics
ISA_FLAGS = {  # by the end of a file's name; csrc/isa.cpp asks the CPU for the same
    "avx512_vbmi": [*AVX512, "-mavx512vbmi", "-mavx512vnni"],
    "avx512": AVX512,
    "avx2": AVX2,
}


class Torch(NamedTuple):
    """The installed torch: its folder, its version, the CUDA version that it was built for."""

    folder: Path
    version: str
    cuda: str | None


class Toolkit(NamedTuple):
    """A CUDA toolkit: who named it, its version, its folder, its libraries' one, its compiler."""

    origin: str
    version: str
    root: Path
    libraries: Path
    nvcc: str


class CudaPlan(NamedTuple):
    """What was decided about the CUDA operators, and why."""

    toolkit: Toolkit | None
    capabilities: tuple[str, ...]  # as in TORCH_CUDA_ARCH_LIST: "8.0", "9.0+PTX"
    reason: str


def stop(message: str) -> SystemExit:
    """Return what ends the build with one line."""
    return SystemExit(f"perfkit: error: {message}")


def output(*command: str | Path) -> str | None:
    """Return what a program prints, or None where it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    except OSError:
        return None
    return None if done.returncode else done.stdout


def packages() -> Iterator[Path]:
    """Yield where packages are; in pip's isolated builds only sysconfig names the user's."""
    yield from (Path(entry) for entry in sys.path if entry)
    yield from (Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))


def find_torch() -> Torch:
    """Return the installed torch without importing it."""
    for folder in packages():
        version = folder / "torch" / "version.py"
        if version.is_file():
            facts = runpy.run_path(str(version))
            found = Torch(version.parent, str(facts["__version__"]), facts["cuda"])
            if tuple(map(int, re.findall(r"\d+", found.version)[:2])) < LEAST_TORCH:
                raise stop(f"torch {found.version} is too old; perfkit needs 2.11 or newer")
            return found
    raise stop(
        "no torch found, and the operators are compiled against it: install torch first; if it is "
        "installed and this is an isolated build, add --no-build-isolation"
    )


def inspect_toolkit(origin: str, nvcc: str | Path) -> Toolkit | str:
    """Return the toolkit of a compiler, or what is wrong with it."""
    release = re.search(r"release (\d+\.\d+)", output(nvcc, "--version") or "")
    if release is None:
        return f"{nvcc} does not run"
    # nvcc on PATH may be a wrapper; the compiler itself knows its folder.
    told = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", told.stderr, re.MULTILINE)
    root = Path(top[1] if top else Path(nvcc).parents[1]).resolve()
    folders = [root / "lib64", root / "lib", *root.glob("targets/*-linux/lib")]
    libraries = [lib for lib in folders if (lib / "libcudart_static.a").exists()]
    if not libraries:
        return f"{root} has no libcudart_static.a"
    for part in ("include/cuda_runtime.h", "nvvm/bin/cicc"):
        if not (root / part).exists():
            return f"{root} has no {part}"
    return Toolkit(origin, release[1], root, libraries[0], str(root / "bin" / "nvcc"))


def find_toolkits(environ: Mapping[str, str]) -> Iterator[Toolkit | str]:
    """Yield every toolkit that may be used, in order; a string says why one may not.

    CUDA_HOME is the user's word: where it is set, nothing else is looked at.
    """
    if home := environ.get("CUDA_HOME"):
        yield inspect_toolkit(f"CUDA_HOME={home}", Path(home, "bin", "nvcc"))
        return
    if on_path := shutil.which("nvcc", path=environ.get("PATH", "")):
        yield inspect_toolkit("nvcc on PATH", on_path)
    nvccs = {nvcc.resolve() for folder in packages() for nvcc in folder.glob("nvidia/cu*/bin/nvcc")}
    for nvcc in sorted(nvccs):
        yield inspect_toolkit("packages from PyPI", nvcc)
    if USUAL_TOOLKIT.exists():
        yield inspect_toolkit(str(USUAL_TOOLKIT), USUAL_TOOLKIT / "bin" / "nvcc")


def choose_capabilities(toolkit: Toolkit, asked: str) -> tuple[str, ...]:
    """Return what to compile for: TORCH_CUDA_ARCH_LIST, or as much of the default as nvcc knows."""
    known = (output(toolkit.nvcc, "--list-gpu-arch") or "").split()
    chosen = tuple(re.findall(r"[^;,\s]+", asked))
    if not chosen:
        here = [one for one in CAPABILITIES if f"compute_{one.replace('.', '')}" in known]
        return tuple(one + "+PTX" if one == PTX else one for one in here)
    for one in chosen:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", one):
            raise stop(f"TORCH_CUDA_ARCH_LIST={asked}: {one} is not of the form 8.0 or 9.0+PTX")
        if "compute_" + re.sub(r"\D", "", one.removesuffix("+PTX")) not in known:
            raise stop(f"TORCH_CUDA_ARCH_LIST={asked}: nvcc {toolkit.version} has no {one}")
    return chosen


def decide_cuda(torch: Torch, environ: Mapping[str, str]) -> CudaPlan:
    """Return whether to build the CUDA operators, with which toolkit, for which GPUs, and why."""
    asked = environ.get("PERFKIT_CUDA", "")
    if asked not in ("", "0", "1"):
        raise stop(f"PERFKIT_CUDA={asked}: 0 (never), 1 (or fail) or unset (where possible)")
    if asked == "0":
        return CudaPlan(None, (), "PERFKIT_CUDA=0")
    toolkit, reason = None, f"torch {torch.version} is built without CUDA"
    if torch.cuda is not None:
        toolkit, reason = fitting_toolkit(torch.cuda, list(find_toolkits(environ)))
    if toolkit is not None:
        chosen = choose_capabilities(toolkit, environ.get("TORCH_CUDA_ARCH_LIST", ""))
        return CudaPlan(toolkit, chosen, reason)
    if asked == "1":
        raise stop(f"PERFKIT_CUDA=1, but {reason}")
    return CudaPlan(None, (), reason)


def fitting_toolkit(cuda: str, found: Sequence[Toolkit | str]) -> tuple[Toolkit | None, str]:
    """Return the first toolkit of torch's own CUDA version, or else of its major one, and why."""
    toolkits = [one for one in found if isinstance(one, Toolkit)]
    problems = [one for one in found if isinstance(one, str)]
    for one in toolkits:
        if one.version == cuda:
            return one, f"nvcc {one.version} ({one.origin}), torch's own version"
    major = cuda.partition(".")[0]
    for one in toolkits:
        if one.version.partition(".")[0] == major:
            return one, f"nvcc {one.version} ({one.origin}), of torch's major version ({cuda})"
    problems += [f"{one.origin} is CUDA {one.version}" for one in toolkits]
    if problems:
        return None, f"torch is built for CUDA {cuda}, and {', '.join(problems)}"
    return None, f"no CUDA toolkit is here (get it: pip install 'cuda-toolkit[nvcc]=={cuda}.*')"


def architectures(capability: str) -> list[str]:
    """Return what one of them puts into the library: ``sm_90`` is code, ``compute_90`` PTX."""
    number = capability.removesuffix("+PTX").replace(".", "")
    return [f"sm_{number}"] + [f"compute_{number}"] * capability.endswith("+PTX")


def gencode(capability: str) -> str:
    """Return nvcc's flag for one of them."""
    code, *ptx = architectures(capability)
    return f"-gencode=arch={code.replace('sm', 'compute')},code=[{','.join([code, *ptx])}]"


def git_commit() -> str | None:
    """Return the commit of the checkout that this is, or None where it is none."""
    top, *commit = (output("git", "rev-parse", "--show-toplevel", "HEAD") or "").split("\n")
    return commit[0] if Path(top) == HERE else None


def binding_flags(torch: Torch) -> list[str]:
    """Return where the headers of pybind11 (torch brings some too) and of Python are."""
    python, pybind11_headers = sysconfig.get_path("include"), str(torch.folder / "include")
    if not Path(python, "Python.h").exists():
        raise stop(f"{python} has no Python.h; install python3-dev, or what it is called here")
    if importlib.util.find_spec("pybind11"):
        import pybind11

        pybind11_headers = pybind11.get_include()
    elif not Path(pybind11_headers, "pybind11").exists():
        raise stop("pybind11 is missing; pip install pybind11")
    return ["-isystem", pybind11_headers, "-isystem", python]


def find_compiler() -> tuple[list[str], str]:
    """Return the C++ compiler's command and its name with version."""
    try:
        cxx = shlex.split(os.environ.get("CXX", "").strip() or "g++")
    except ValueError as error:
        raise stop(f"CXX={os.environ['CXX']} is no command ({error})") from None
    told = (output(*cxx, "--version") or "").partition("\n")[0]
    if not told:
        raise stop(f"no C++ compiler: {shlex.join(cxx)} does not run; install g++, or set CXX")
    return cxx, told


class Ninja:
    """A ninja file in the making."""

    def __init__(self, folder: Path, tools: Mapping[str, Sequence[str]]) -> None:
        self.folder = folder
        self.text = "".join(f"{name} = {self.words(command)}\n" for name, command in tools.items())
        for name in tools:
            self.text += f"rule {name}\n  command = ${name} -MD -MF $out.d $flags -c $in -o $out\n"
            self.text += f"  depfile = $out.d\n  deps = gcc\n  description = {name} $in\n"
        link = f"$cxx {self.words(LINK_FLAGS)} $in $flags -o $out"
        self.text += f"rule link\n  command = {link}\n  description = link $out\n"

    def add(self, rule: str, out: Path, inputs: Sequence[Path], flags: Sequence[str]) -> Path:
        """Make ``out`` of ``inputs``."""
        files = (out, EXPORTS, *inputs)
        made, exports, *of = (re.sub(r"([$ :])", r"$\1", str(file)) for file in files)
        of += ["|", exports] if rule == "link" else []
        self.text += f"build {made}: {rule} {' '.join(of)}\n  flags = {self.words(flags)}\n"
        return out

    def compile(self, flags: Sequence[str], *sources: Path) -> list[Path]:
        """Compile each file."""
        objects = [self.folder / f"{source.relative_to(source.parents[1])}.o" for source in sources]
        for source, made in zip(sources, objects, strict=True):
            self.add("nvcc" if source.suffix == ".cu" else "cxx", made, [source], flags)
        return objects

    @staticmethod
    def words(command: Sequence[str]) -> str:
        """Return a command as the shell that ninja starts reads it."""
        return shlex.join(command).replace("$", "$$")

    def run(self) -> None:
        """Bring everything up to date."""
        jobs = os.environ.get("MAX_JOBS", "").strip()
        if jobs and not re.fullmatch(r"0*[1-9][0-9]{0,8}", jobs):  # ninja takes 0 for no limit
            raise stop(f"MAX_JOBS={jobs}: it has to be a whole number of at least 1, or unset")
        write_if_changed(self.folder / "build.ninja", self.text)
        beside_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        program = shutil.which("ninja", path=beside_python)
        if program is None:
            raise stop("ninja is missing; pip install ninja")
        command = [program, *(["-j", jobs] if jobs else [])]
        if subprocess.run(command, cwd=self.folder, check=False).returncode:
            raise stop(f"no native code was built in {self.folder}; the message above says why")


def write_if_changed(file: Path, text: str) -> Path:
    """Write a file unless it says this already: what is made of it would be made again."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return file


def build(folder: Path) -> list[Path]:
    """Compile what has changed in ``folder`` and return the libraries."""
    torch, (cxx, compiler) = find_torch(), find_compiler()
    cuda = decide_cuda(torch, os.environ)
    held = [each for one in cuda.capabilities for each in architectures(one)]
    print(f"perfkit: CPU operators by {compiler}, torch {torch.version} in {torch.folder}")
    cuda_words = f"for {', '.join(held)} by" if held else "left out:"
    print(f"perfkit: CUDA operators {cuda_words} {cuda.reason}", flush=True)  # pip: with -v
    facts = {
        "commit": git_commit(),
        "torch": torch.version,
        "torch_abi": "2.11",
        "compiler": compiler,
        "cuda_architectures": held,
        "cuda_toolkit": cuda.toolkit.version if cuda.toolkit else None,
        "cuda_reason": cuda.reason,
    }
    # ASCII JSON, quoted once more as JSON: that is a C++ string too.
    text = f"extern const char* const kBuildFacts = {json.dumps(json.dumps(facts))};\n"
    generated = write_if_changed(folder / "build_facts.cpp", text)
    tools = {"cxx": cxx}
    if cuda.toolkit:
        tools["nvcc"] = [cuda.toolkit.nvcc, "-ccbin", [w for w in cxx if w[0] != "-"][-1]]
    ninja = Ninja(folder, tools)
    kernels = [ninja.compile(CXX_FLAGS + flags, one)[0] for one, flags in kernel_sources()]
    objects = ninja.compile(CXX_FLAGS + binding_flags(torch), CSRC / "module.cpp", generated)
    libraries = [ninja.add("link", folder / NATIVE, objects + kernels, ["-pthread"])]
    with_torch = [*CXX_FLAGS, *STABLE_FLAGS, "-isystem", str(torch.folder / "include")]
    objects = ninja.compile(with_torch, CSRC / "schema.cpp", *sorted(CSRC.glob("*/cpu.cpp")))
    link = ["-Wl,-z,defs", f"-L{torch.folder / 'lib'}", "-ltorch_cpu"]
    libraries.append(ninja.add("link", folder / CPU, objects + kernels, link))
    if cuda.toolkit:
        flags = NVCC_FLAGS + [gencode(one) for one in cuda.capabilities]
        objects = ninja.compile(flags, *sorted(CSRC.glob("*/*.cu")))
        flags = [*with_torch, "-DUSE_CUDA", "-isystem", str(cuda.toolkit.root / "include")]
        objects += ninja.compile(flags, *sorted(CSRC.glob("*/cuda.cpp")))
        link = [f"-L{cuda.toolkit.libraries}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        # libtorch.so stands for the libraries behind it, which differ between torch's builds. They
        # hold some of libstdc++ too: its own goes first.
        link += ["-lstdc++", f"-L{torch.folder / 'lib'}", "-Wl,--no-as-needed", "-ltorch"]
        libraries.append(ninja.add("link", folder / CUDA, objects, link))
    ninja.run()
    return libraries


def kernel_sources() -> Iterator[tuple[Path, list[str]]]:
    """Yield what knows neither torch nor Python, with the flags of its instruction set."""
    for source in sorted([*CSRC.glob("*.cpp"), *CSRC.glob("*/*.cpp")]):
        isa = next((isa for isa in ISA_FLAGS if source.stem.endswith(isa)), "")
        if source.name not in NOT_KERNELS and (not isa or platform.machine() == "x86_64"):
            yield source, ISA_FLAGS.get(isa, [])


class BuildNative(build_ext):
    """setuptools' build_ext, with ninja in place of distutils' compiler."""

    def run(self) -> None:
        """Build, and put the libraries into the source tree (--inplace, -e) or the build folder."""
        folder = HERE / "build" / f"native-{platform.machine()}"
        target = (HERE if self.inplace else Path(self.build_lib)) / PACKAGE
        try:
            made = {one.name: one for one in build(folder)}
            target.mkdir(parents=True, exist_ok=True)
            for name in {CPU, CUDA, NATIVE} - made.keys():
                (target / name).unlink(missing_ok=True)
            for name, library in made.items():
                # Renamed into place: a process that has the old one loaded keeps it.
                shutil.copy2(library, target / f".{name}.new")
                os.replace(target / f".{name}.new", target / name)
        except OSError as error:
            told = f"cannot be written ({error}); both have to be folders with room to write"
            raise stop(f"{folder} or {target} {told}") from None

    def get_outputs(self) -> list[str]:
        """Return what was put into the build folder."""
        return [str(made) for made in Path(self.build_lib, PACKAGE).glob("*.so")]

    def get_source_files(self) -> list[str]:
        """Return what an sdist takes along."""
        return [str(file.relative_to(HERE)) for file in sorted(CSRC.rglob("*")) if file.is_file()]


if __name__ == "__main__":
    if int(setuptools.__version__.partition(".")[0]) < 77:
        raise stop(f"setuptools {setuptools.__version__} is too old; pip install 'setuptools>=77'")
    # Declared so that wheels are for one Python and platform; BuildNative knows how it is built.
    setuptools.setup(
        ext_modules=[setuptools.Extension("perfkit.ops._native", sources=[])],
        cmdclass={"build_ext": BuildNative},
    )
