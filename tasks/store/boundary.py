"""The boundary to other packages: what they raise on a user's files becomes one of this project's errors, in one line.

transformers, tokenizers, datasets, lm-eval, huggingface_hub, safetensors and pyarrow raise whatever their own code
meets: TypeError, KeyError, StrictDataclassError, a panic of Rust code. Nobody who gave them a bad file should read a
traceback for it.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from tasks.core.errors import CrashError, EnvironmentFault, InputError
from tasks.store.disk import DISK_ERRORS

# Longer messages of other packages are cut: the first sentences say what is wrong.
LONGEST_QUOTE = 300
# The name of the package on the index, where it is not that of the module.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml", "google.protobuf": "protobuf", "PIL": "pillow"}


@contextmanager
def translated(what: str, advice: str = "", quote: bool = True, code: Collection[Path] = ()) -> Iterator[None]:
    """Turn what other packages raise in the block into an error of this project.

    what: the file and what was done with it, such as "models/llama: transformers cannot load this model".
    advice: what to do about it. quote: whether to show the message of the other package, and to keep its error as the
    cause; not where it may hold a row. code: Python files of the user, whose line that failed is named.

    Raises:
        InputError: for everything that the content of a file can cause, a missing Python package included.
        EnvironmentFault: for a disk that is full or cannot be written.
    Errors of this project, interruptions, and memory that does not suffice pass through unchanged.
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
    """What to install, or that an installed package no longer has what is asked of it."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        package = DISTRIBUTIONS.get(error.name, DISTRIBUTIONS.get(package, package))
        if "." in error.name and _is_installed(error.name.partition(".")[0]):
            return f"the installed {package} has no module {error.name}"
        return f"the Python package {package!r} is not installed (pip install {package})"
    return first_words(error)


def first_words(error: BaseException) -> str:
    """The message of an error in one line, cut where it is long; the name of its class where it has no message."""
    words = " ".join(str(error).split())
    if len(words) > LONGEST_QUOTE:
        words = words[:LONGEST_QUOTE].rsplit(" ", 1)[0] + " ..."
    return words or type(error).__name__


def passed_through(error: BaseException, files: Collection[Path]) -> tuple[Path, int] | None:
    """The innermost line of these files that an error came through, as (file, line); None where it did not."""
    lines = [(Path(frame.f_code.co_filename), line) for frame, line in walk_tb(error.__traceback__)]
    return next((place for place in reversed(lines) if place[0] in files), None)


def _place_in(error: BaseException, code: Collection[Path]) -> str:
    place = passed_through(error, code)
    return f" in {place[0].name}, line {place[1]}" if place else ""


def _sentence(what: str, reason: str, advice: str) -> str:
    return f"{what} ({reason.rstrip('.')})" + (f". {advice}" if advice else "")


def _is_foreign(error: BaseException) -> bool:
    """Whether a file caused it: not an interruption, nor a device without memory, which smaller batches may mend.

    Panics of Rust code (tokenizers, safetensors) are no `Exception`s, and their class cannot be imported. Nor is the
    SystemExit of code that calls sys.exit, as that of some task definitions does where a package is missing.
    """
    name = type(error).__name__
    return name == "PanicException" or (isinstance(error, Exception | SystemExit) and name != "OutOfMemoryError")


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
