"""Whatever another package raises becomes one line of this project's; what is not a file's fault passes through."""

import errno
import importlib.util
from pathlib import Path

import pytest

from tasks.core.errors import CrashError, DivergedError, EnvironmentFault, InputError
from tasks.store.boundary import LONGEST_QUOTE, translated


class PanicException(BaseException):
    """What pyo3 raises for a panic in Rust code; the real class cannot be imported."""


class OutOfMemoryError(RuntimeError):
    """torch's class of this name, without a GPU."""


def raised(error: BaseException, **options: object) -> CrashError:
    with pytest.raises(CrashError) as caught, translated("model/x: cannot be read", **options):  # type: ignore[arg-type]
        raise error
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        KeyError("layer_types"),
        TypeError("'NoneType' object is not iterable"),
        RuntimeError("size mismatch\n  for weight"),
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        PanicException("index out of bounds"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        Exception(),
    ],
)
def test_what_a_file_causes_is_an_input_error_of_one_line(error: BaseException) -> None:
    found = raised(error, advice="Give another file")
    assert isinstance(found, InputError)
    assert str(found).startswith("model/x: cannot be read (")
    assert str(found).endswith("). Give another file")
    assert "\n" not in str(found)
    assert found.__cause__ is error


def test_a_missing_package_is_named_with_how_to_install_it() -> None:
    assert "pip install gptqmodel" in str(raised(ModuleNotFoundError("No module named 'gptqmodel'", name="gptqmodel")))
    assert "pip install pillow" in str(raised(ModuleNotFoundError("No module named 'PIL'", name="PIL")))


def test_a_module_that_an_installed_package_dropped_is_named() -> None:
    found = raised(ModuleNotFoundError("No module", name="torch.no_longer_there"))
    assert "the installed torch has no module torch.no_longer_there" in str(found)


def test_a_disk_that_refuses_is_the_environments_fault() -> None:
    assert isinstance(raised(OSError(errno.ENOSPC, "No space left on device")), EnvironmentFault)


def test_a_message_that_may_hold_a_row_is_not_shown() -> None:
    error = raised(ValueError("the patient is called Smith"), quote=False)
    found = str(error)
    assert "Smith" not in found
    assert "ValueError" in found
    assert error.__cause__ is None
    assert error.__suppress_context__, "a traceback would show it"
    found = str(raised(OSError(errno.ENOSPC, "No space left on device", "Smith"), quote=False))
    assert found == "model/x: cannot be read (No space left on device)"


def test_code_that_exits_is_an_error_like_any_other() -> None:
    assert "SystemExit: install it first" in str(raised(SystemExit("install it first")))


def test_the_line_of_the_users_code_is_named(tmp_path: Path) -> None:
    file = tmp_path / "utils.py"
    file.write_text("def outer():\n    inner()\n\ndef inner():\n    int('x')\n\ndef missing():\n    import not_there\n")
    spec = importlib.util.spec_from_file_location("utils", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for call, message in [(module.outer, "ValueError in utils.py, line 5"), (module.missing, "in utils.py, line 8")]:
        with pytest.raises(InputError, match=message), translated("a task", quote=False, code=[file]):
            call()
    with pytest.raises(InputError, match=r"\(ValueError\)"), translated("a task", quote=False):
        module.outer()


def test_a_long_message_is_cut() -> None:
    assert len(str(raised(ValueError("word " * 500)))) < LONGEST_QUOTE + 100


@pytest.mark.parametrize("error", [DivergedError("step 3"), MemoryError(), OutOfMemoryError(), KeyboardInterrupt()])
def test_what_is_no_files_fault_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, translated("model/x"):
        raise error
    assert caught.value is error
