"""What a rank and its loader workers owe the process that started them."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from perfkit.core.errors import PerfkitError

ERROR_FILE_VARIABLE = "PERFKIT_ERROR_FILE"
PARENT_VARIABLE = "PERFKIT_PARENT_PID"

_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Tell the parent why this rank failed, then end the rank without printing anything.

    The report goes to the file that PERFKIT_ERROR_FILE names, as JSON: ``time`` (Unix time, s),
    ``user_error`` (a PerfkitError) and ``message`` (its one line, or the traceback). Where the
    variable is not set, as under torchrun, the exception goes on as it is.

    Enter this inside whatever opens the process group: peers fail as soon as the group closes,
    and the rank with the earliest report is the one that is blamed.
    """
    try:
        yield
    except Exception as error:
        path = os.environ.get(ERROR_FILE_VARIABLE)
        if not path:
            raise
        user_error = isinstance(error, PerfkitError)
        report = {
            "time": time.time(),
            "user_error": user_error,
            "message": str(error) if user_error else traceback.format_exc().rstrip(),
        }
        unfinished = Path(path).with_suffix(".tmp")
        unfinished.write_text(json.dumps(report), encoding="utf-8")
        unfinished.replace(path)
        raise SystemExit(2 if user_error else 1) from None


def leave(code: int) -> NoReturn:
    """End this process after its exit handlers, without taking the interpreter down.

    A process group that something still refers to when the interpreter goes down (gloo's threads
    run on) now and then ends in "terminate called without an active exception" and an abort,
    after all the work was done. Call this when everything is written and the group is left.
    """
    gc.collect()  # what only a cycle keeps alive would be reported as leaked semaphores
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):  # nobody reads it any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def die_with_parent() -> None:
    """Have this process killed when the process that started it dies, however it dies.

    For ranks (call it first thing) and loader workers. The kernel counts the *thread* that
    started this process as its parent. Without Linux only forkserver workers are covered.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        # The fork server is this worker's parent for the kernel, and outlives the rank for as
        # long as the worker holds it open.
        threading.Thread(target=_die_after, args=(parent.sentinel,), daemon=True).start()
        return
    if sys.platform != "linux":
        return
    # Removed, because processes that this one starts have another parent.
    given = os.environ.pop(PARENT_VARIABLE, None)
    expected = parent.pid if parent is not None else int(given or os.getppid())
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != expected:
        # The parent died before the request, which then never fires.
        os.kill(os.getpid(), signal.SIGKILL)


def _die_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
