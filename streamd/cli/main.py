"""The commands. Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration."""

import errno
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from streamd import __version__
from streamd.config import Config, load_config
from streamd.config.exposure import readable_secrets
from streamd.config.secrets import mask_text
from streamd.errors import ConfigError, ModelError, RedisSetupError, SetupError, StreamdError
from streamd.logs import configure_logging, get_logger
from streamd.preflight import check_mounted, check_surroundings, checked_log_file

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk that the output goes to
_WRONG_SETUP = (ConfigError, ModelError, RedisSetupError, SetupError)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Many cameras, one model, events in Redis.",
)
# Whether it can be read is not for typer to say: that takes four lines of usage.
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="the YAML file", readable=False)]


def main() -> None:
    """Runs the command line; every error is one readable line on stderr, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a locale may lack the characters of a label
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
        print(end="", flush=True)  # here a full disk can be told of
    except typer.Exit as end:
        code = end.exit_code
    except typer.Abort:
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 0
        sys.stdout = None
    except OSError as error:
        code = _complain_of_file(error)
    except _WRONG_SETUP as error:
        code = _complain(error, 2)
    except StreamdError as error:
        code = _complain(error, 1)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        show(sys.stderr)
        code = getattr(error, "exit_code", 2)
    sys.exit(code or 0)


def _complain(error: StreamdError, code: int) -> int:
    try:
        print(mask_text(str(error)), file=sys.stderr, flush=True)
    except OSError:  # nobody listens any more, or a disk is full: the code says it
        sys.stderr = None
    return code


def _complain_of_file(error: OSError) -> int:
    """Of one that may not be opened, or of a disk that is full; raises `error` if it is another."""
    if isinstance(error, PermissionError) and error.filename:
        return _complain(SetupError(f"{error.filename}: {error.strerror}"), 2)
    if error.errno not in _FULL:
        raise error
    what = f"{error.filename or 'output'}: cannot be written: {error.strerror}"
    code = _complain(SetupError(what), 1)
    sys.stdout = None
    return code


def load(path: Path) -> Config:
    """The configuration at `path`, with the log on stderr set up as it says."""
    config = load_config(path)
    configure_logging(config.log)
    return config


@app.command()
def run(
    config: ConfigPath,
    until_done: Annotated[
        bool, typer.Option("--until-done", help="end when every file was read and published")
    ] = False,
) -> None:
    """Run the daemon in the foreground."""
    check_mounted(config)
    loaded = load(config)
    check_surroundings(loaded.model)
    configure_logging(loaded.log, checked_log_file(loaded))
    exposed = readable_secrets(loaded)
    if exposed:
        get_logger().warning("secrets_readable", detail=str(exposed))
    from streamd.daemon import run_daemon  # noqa: PLC0415  # no other command needs it

    raise typer.Exit(run_daemon(loaded, until_done=until_done))


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="print the version and end")] = False,
) -> None:
    """Many cameras, one model, events in Redis."""
    if show:
        print(f"streamd {__version__}")
        raise typer.Exit
