"""No page shows a command, an option or a file that does not exist; what runs offline in seconds is run."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from docs.generate.commands_reference import updated
from docs.project import parser, read_sweep
from tests.docs.pages import DOCS, ROOT, Command, blocks, commands, pages
from tests.flows.commands import BIN, clean_environment

pytestmark = pytest.mark.usefixtures("one_prefect")

# Commands that compute nothing.
QUICK = {"doctor", "gc", "plan-cost", "runs"}
# What stands for a user's own settings on the pages: it is enough for every change that they show.
OWN_SETTINGS = """
model = {name = "owner/model"}
task = {name = "arc_easy"}
plan = {num_kept = 12}
tune = {num_epochs = 5}
"""
RUN_THEM = """
import json, sys
from docs.project import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        print("ENDED", json.dumps([arguments, ended.code or 0]), flush=True)
"""
COMMANDS = commands()
OURS = [command for command in COMMANDS if command.program == "crash"]
READY = ROOT / "flows" / "tables"
SMALL_RUN = ("tutorials/own-model-and-task.md", ("run", "flows/demo/settings.toml"))


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's settings file; commands begin in the repository."""
    monkeypatch.chdir(ROOT)
    file = tmp_path / "own.toml"
    file.write_text(OWN_SETTINGS)
    return file


def test_pages_show_commands() -> None:
    assert len(OURS) > 50


@pytest.mark.parametrize("command", OURS, ids=str)
def test_the_command_line_understands_it(
    command: Command, own_settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--help" in command.words:
        with pytest.raises(SystemExit) as ended:
            parser().parse_args(command.words[1:])
        assert ended.value.code == 0, f"{command}\n{capsys.readouterr().err}"
        return
    options = parser().parse_args(command.words[1:])
    named, changes = getattr(options, "settings", None), getattr(options, "changes", None)
    if named or changes:
        read_sweep(settings_file(named, own_settings), changes)


def settings_file(named: Path | None, own: Path) -> Path:
    """A file of the project as it is; in place of one that a reader writes, one that suffices."""
    if named is not None and (READY / named).exists():
        return named
    if named is not None and (ROOT / named).exists():
        return ROOT / named
    written = {block.text.partition("\n")[0].removeprefix("# ") for block in blocks("toml")}
    assert named is None or str(named) in written, f"no block of a page is headed `# {named}`"
    return own


def is_quick(command: Command) -> bool:
    """Whether it computes nothing, and all that it names is in the project."""
    words = command.words[1:]
    files = [word for word in words[1:] if word.endswith(".toml")]
    here = "--store" not in words and all((ROOT / file).exists() for file in files)
    return "--help" in words or (words[0] in QUICK and here)


def run(arguments: Sequence[str], home: Path) -> subprocess.CompletedProcess[str]:
    """A command in the repository, with a home folder of its own."""
    environment = clean_environment(CRASH_HOME=str(home), PYTHONPATH=str(ROOT))
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=500, env=environment)


def test_quick_commands_run(tmp_path: Path) -> None:
    """Those of the demo's files and of an empty home, one after another in one process."""
    wanted = list({command.words[1:]: None for command in OURS if is_quick(command)})
    assert len(wanted) > 10
    done = run([sys.executable, "-c", RUN_THEM, json.dumps(wanted)], tmp_path / "home")
    ended = [json.loads(line.removeprefix("ENDED ")) for line in done.stdout.splitlines() if line.startswith("ENDED ")]
    assert [words for words, _ in ended] == [list(words) for words in wanted], done.stdout + done.stderr
    assert [words for words, code in ended if code] == [], done.stdout + done.stderr


def test_the_small_run_of_the_tutorial(tmp_path: Path) -> None:
    """It ends with a report."""
    page, first = SMALL_RUN
    (small,) = [each.words[1:] for each in OURS if page in each.place and each.words[1:3] == first]
    done = run([str(BIN / "crash"), *small], tmp_path / "home")
    assert done.returncode == 0, done.stderr
    report = re.search(r"^Report: +(\S+/report\.html)$", done.stdout, re.M)
    assert report is not None, done.stdout
    assert Path(report[1]).is_file()


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    shown = {command.words[1] for command in COMMANDS if command.program == "make"}
    shown |= {name for page in pages() for name in re.findall(r"`make ([a-z-]+)`", page.read_text())}
    assert shown <= targets
    assert {"demo", "test", "docs"} <= shown


def is_known_extra(words: Sequence[str]) -> bool:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"crash-flow\[([^\]]+)\]", " ".join(words))
    return all(set(each.split(",")) <= extras.keys() for each in named)


def are_known_variables(words: Sequence[str]) -> bool:
    known = (DOCS / "reference" / "environment.md").read_text()
    return all(f"`{word.partition('=')[0]}`" in known for word in words)


def is_module(words: Sequence[str]) -> bool:
    return words[0] == "-m" and (ROOT / f"{words[1].replace('.', '/')}.py").is_file()


PROGRAMS: dict[str, Callable[[Sequence[str]], bool]] = {
    ".": lambda words: words == (".venv/bin/activate",),
    "export": are_known_variables,
    "pip": is_known_extra,
    "python": is_module,
    "mlflow": lambda words: (BIN / "mlflow").exists(),
    "prefect": lambda words: (BIN / "prefect").exists(),
    "pytest": lambda words: (BIN / "pytest").exists(),
    # Programs of the system, which say themselves what they know.
    **dict.fromkeys(("apt-get", "git"), lambda words: True),
}


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.program not in ("crash", "make")], ids=str)
def test_other_programs(command: Command) -> None:
    assert command.program in PROGRAMS, "say in PROGRAMS how to check it"
    assert PROGRAMS[command.program](command.words[1:])


def test_the_reference_lists_the_commands_as_they_are() -> None:
    text = (DOCS / "reference" / "commands.md").read_text()
    assert updated(text) == text, "run `make readme`"
