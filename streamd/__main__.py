"""The entry of the program, also of `python -m streamd`.

Every worker process imports the module that the program was started from. So this one imports
nothing of ours at its top: a worker must not pay for the command line.
"""

import os
import sys


def main() -> None:
    """Runs the command line."""
    try:
        _main()
    except KeyboardInterrupt:  # while a command is still being imported: half a second
        sys.exit(130)


def _main() -> None:
    _open_standard_streams()
    # Nothing here has work for NumPy's OpenBLAS, which starts a thread a core in each process.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # The import of ONNX Runtime would report itself to Microsoft.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # Else workers begin with the working directory on their path: a queue.py beside the
    # configuration would be taken for Python's own.
    os.environ["PYTHONSAFEPATH"] = "1"
    from streamd.config.secrets import mask_text  # noqa: PLC0415  # see the module's docstring
    from streamd.linux.prctl import rewrite_arguments  # noqa: PLC0415

    # `streamd probe rtsp://user:password@...`: any user of the machine can run `ps`.
    rewrite_arguments(mask_text)
    from streamd.cli import main as run_command  # noqa: PLC0415

    run_command()


def _open_standard_streams() -> None:
    """Where one is closed, the log would go into whatever file gets its number next."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


if __name__ == "__main__":
    main()
