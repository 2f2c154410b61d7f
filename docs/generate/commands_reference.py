"""The reference of the command line, made from its parser.

`python -m docs.generate.commands_reference docs/reference/commands.md` makes the part between the two markers anew.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from docs.generate.markers import replace_between
from docs.project import parser

BEGIN, END = "<!-- commands: begin (make readme) -->", "<!-- commands: end -->"


def reference() -> str:
    """A section for each command: what it does, how it is called, and a table of its arguments."""
    return "\n\n".join(_section(name, command, line) for name, command, line in commands())


def commands(whole: argparse.ArgumentParser | None = None, before: str = "") -> list[tuple[str, Any, str]]:
    """Name, parser and one line of help of every command, in the order of `crash --help`; actions of a command, such
    as `keys new`, in its place.
    """
    found: list[tuple[str, Any, str]] = []
    for group in (each for each in (whole or parser())._actions if isinstance(each, argparse._SubParsersAction)):
        for choice in group._choices_actions:
            name, command = f"{before}{choice.dest}", group.choices[choice.dest]
            found += commands(command, f"{name} ") or [(name, command, choice.help or "")]
    return found


def updated(text: str) -> str:
    """The text with the part between the two markers made anew."""
    return replace_between(text, BEGIN, END, reference())


def _section(name: str, command: argparse.ArgumentParser, line: str) -> str:
    arguments = [action for action in command._actions if action.dest != "help" and action.help != argparse.SUPPRESS]
    places = [action for action in arguments if not action.option_strings]
    shown = " ".join(action.dest.upper() if action.required else f"[{action.dest.upper()}]" for action in places)
    call = " ".join(filter(None, ("crash", name, shown, "[OPTIONS]" if len(arguments) > len(places) else "")))
    about = command.description or f"{line[0].upper()}{line[1:]}."
    table = ["| argument | meaning |", "|---|---|", *map(_row, [*places, *(a for a in arguments if a not in places)])]
    return "\n".join([f"## crash {name}", "", about, "", "```text", call, "```", *(["", *table] if arguments else [])])


def _row(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"| `{action.dest.upper()}` | {_meaning(action)} |"
    value = "" if action.nargs == 0 else f" {_value(action)}"
    return f"| `{', '.join(action.option_strings)}{value}` | {_meaning(action)} |"


def _value(action: argparse.Action) -> str:
    if action.choices:
        return f"{{{','.join(map(str, action.choices))}}}"
    return str(action.metavar or action.dest.upper())


def _meaning(action: argparse.Action) -> str:
    return (action.help or "").replace("|", "\\|")


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(updated(page.read_text()))
