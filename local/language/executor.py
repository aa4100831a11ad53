"""Runs one Pulumi program in this process, as `host.py` asks: SETTINGS LIFELINE PROGRAM [ARGUMENT …].

SETTINGS is a JSON object (project, stack, addresses of engine and monitor). LIFELINE is the number of a file descriptor
that closes when the host dies. PROGRAM is a folder with `__main__.py`, or a file. The config comes in PULUMI_CONFIG and
PULUMI_CONFIG_SECRET_KEYS, as with the official host. Exit codes, as with the official executor: 0 fine, 1 the program
refused with RunError, 32 it failed and the traceback has been shown.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import runpy
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

ERROR_SHOWN = 32


def _die_with(lifeline: int) -> None:
    """Ends this process when the other end of the pipe closes: a killed host leaves no program behind."""

    def watch() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _user_frames(tail: TracebackType | None, program: str) -> TracebackType | None:
    """The part of a traceback that starts in the program's own code, or all of it if the program is not in it."""
    start = os.path.join(program, "__main__.py") if os.path.isdir(program) else program
    frame = tail
    while frame is not None and os.path.abspath(frame.tb_frame.f_code.co_filename) != start:
        frame = frame.tb_next
    return frame or tail


def _run(settings: dict[str, Any], program: str) -> int:
    gc.disable()  # an import leaves hardly any garbage to collect
    import pulumi

    gc.freeze()
    gc.enable()
    if os.path.isdir(program) and not os.path.isfile(os.path.join(program, "__main__.py")):
        print(f"there is no __main__.py in {program}; write the program there or name another in Pulumi.yaml's `main`")
        return 1
    runtime = pulumi.runtime
    runtime.set_all_config(runtime.get_config_env(), runtime.get_config_secret_keys_env())
    runtime.configure(runtime.Settings(**settings))
    # asyncio reports tasks that a failed program leaves behind; users should read the engine's own diagnostics instead.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    def start() -> None:
        runpy.run_path(program, run_name="__main__")

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_default_executor(ThreadPoolExecutor(max_workers=max(int(str(settings["parallel"])), 1)))
    try:
        loop.run_until_complete(runtime.run_in_stack(start))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return 1
    except Exception as error:  # report whatever the user's program raises as a message
        shown = traceback.format_exception(type(error), error, _user_frames(error.__traceback__, program))
        pulumi.log.error("Program failed with an unhandled exception:\n" + "".join(shown))
        return ERROR_SHOWN
    finally:
        loop.close()
    return 0


def main() -> None:
    """Runs the program named on the command line and exits with its code."""
    settings, lifeline, program = sys.argv[1:4]
    _die_with(int(lifeline))
    program = os.path.abspath(program)
    sys.argv = [program, *sys.argv[4:]]
    # This file's folder must not shadow the program's modules: callbacks import them even after its last line.
    sys.path[0] = program if os.path.isdir(program) else os.path.dirname(program)
    sys.exit(_run(json.loads(settings), program))


if __name__ == "__main__":
    main()
