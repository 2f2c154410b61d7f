"""Translate what other packages raise on a user's files into one of this project's errors, in one line.

transformers, tokenizers, datasets, lm-eval, huggingface_hub, safetensors and pyarrow raise whatever their own code
meets: TypeError, KeyError, StrictDataclassError, a panic of Rust code. A user with a bad file should not have to read a
traceback.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from tasks.core.errors import CrashError, EnvironmentFault, InputError
from tasks.store.disk import DISK_ERRORS

# Longer messages of other packages are truncated: their first sentences say what is wrong.
LONGEST_QUOTE = 300
# The name of the package on the index, where it differs from that of the module.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml", "google.protobuf": "protobuf", "PIL": "pillow"}


@contextmanager
def translated(what: str, advice: str = "", quote: bool = True, code: Collection[Path] = ()) -> Iterator[None]:
    """Translate what other packages raise in the block into an error of this project.

    Errors of this project, interruptions and out-of-memory errors pass through unchanged.

    what: the file and what was done with it, such as "models/llama: transformers cannot load this model".
    advice: what to do about it. quote: whether to show the message of the other package, and to keep its error as the
    cause; False where the message may contain a row. code: Python files of the user, whose failing line is named.

    Raises:
        InputError: for everything that the content of a file can cause, including a missing Python package.
        EnvironmentFault: when a disk is full or cannot be written.
    """
    try:
        yield
    except (CrashError, MemoryError):
        raise
    except ImportError as error:
        reason = missing_package(error) + _place_in(error, code)
        raise InputError(_sentence(what, reason, advice)) from (error if quote else None)
    except OSError as error:
        kind = EnvironmentFault if error.errno in DISK_ERRORS else InputError
        reason = (first_words(error) if quote else error.strerror or type(error).__name__) + _place_in(error, code)
        raise kind(_sentence(what, reason, advice)) from (error if quote else None)
    except BaseException as error:
        if not _is_foreign(error):
            raise
        reason = type(error).__name__ + _place_in(error, code)
        reason += f": {first_words(error)}" if quote and str(error) else ""
        raise InputError(_sentence(what, reason, advice)) from (error if quote else None)


def missing_package(error: ImportError) -> str:
    """Say which package to install, or that an installed one does not have the module or name any more."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        package = DISTRIBUTIONS.get(error.name, DISTRIBUTIONS.get(package, package))
        if "." in error.name and _is_installed(error.name.partition(".")[0]):
            return f"the installed {package} has no module {error.name}"
        return f"the Python package {package!r} is not installed (pip install {package})"
    return first_words(error)


def first_words(error: BaseException) -> str:
    """Return the message of an error in one line, truncated if long; the name of its class if it has no message."""
    words = " ".join(str(error).split())
    if len(words) > LONGEST_QUOTE:
        words = words[:LONGEST_QUOTE].rsplit(" ", 1)[0] + " ..."
    return words or type(error).__name__


def passed_through(error: BaseException, files: Collection[Path]) -> tuple[Path, int] | None:
    """Return the innermost line of these files in an error's traceback, as (file, line); None if there is none."""
    lines = [(Path(frame.f_code.co_filename), line) for frame, line in walk_tb(error.__traceback__)]
    return next((place for place in reversed(lines) if place[0] in files), None)


def _place_in(error: BaseException, code: Collection[Path]) -> str:
    place = passed_through(error, code)
    return f" in {place[0].name}, line {place[1]}" if place else ""


def _sentence(what: str, reason: str, advice: str) -> str:
    return f"{what} ({reason.rstrip('.')})" + (f". {advice}" if advice else "")


def _is_foreign(error: BaseException) -> bool:
    """Return whether a file caused the error: not an interruption, nor a device out of memory, which a retry may fix.

    Panics of Rust code (tokenizers, safetensors) are not `Exception`s, and their class cannot be imported. SystemExit
    is not one either: some task definitions call sys.exit where a package is missing.
    """
    name = type(error).__name__
    return name == "PanicException" or (isinstance(error, Exception | SystemExit) and name != "OutOfMemoryError")


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
