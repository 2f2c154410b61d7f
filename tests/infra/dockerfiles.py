"""Reading image files: their stages, and the commands that their instructions would run."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.places import ROOT

FILES = sorted((ROOT / "images").glob("*.Dockerfile"))


@dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined: `name` in capitals, `rest` as written."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The arguments, without options such as `--from=build`."""
        return [word for word in shlex.split(self.rest) if not word.startswith("--")]

    def option(self, name: str) -> str | None:
        """Value of an option `--name=value`."""
        found = re.search(rf"(?:^|\s)--{name}=(\S+)", self.rest)
        return found and found[1]

    @property
    def commands(self) -> list[list[str]]:
        """The commands that it runs, each as a list of words; the value of a `${NAME:+value}` counts as written."""
        text = self.rest[self.rest.find("CMD") + 3 :] if self.name == "HEALTHCHECK" else self.rest
        if text.strip().startswith("["):
            return [json.loads(text)]
        plain = re.sub(r"\$\{\w+:\+([^\"}]*)(?:\"[^\"]*\")?\}", r"\1 ", text)
        tokens = shlex.shlex(plain, posix=True, punctuation_chars="&|;")
        tokens.whitespace_split = True
        commands: list[list[str]] = [[]]
        for token in tokens:
            if set(token) <= set("&|;"):
                commands.append([])
            else:
                commands[-1].append(token)
        return commands


def stages(path: Path) -> list[list[Instruction]]:
    """The instructions of each stage from its FROM on; what stands before the first FROM is left out."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found: list[list[Instruction]] = []
    for line in joined.splitlines():
        name, rest = line.split(maxsplit=1)
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append(Instruction(name, rest))
    return found


def environment(stage: list[Instruction]) -> dict[str, str]:
    """The variables that the stage sets."""
    words = [word for instruction in stage if instruction.name == "ENV" for word in instruction.words]
    return dict(word.split("=", 1) for word in words)


def packages(stage: list[Instruction]) -> set[str]:
    """Debian packages that the stage installs."""
    commands = [command for instruction in stage if instruction.name == "RUN" for command in instruction.commands]
    installs = [command for command in commands if command[:2] == ["apt-get", "install"]]
    return {word for command in installs for word in command[2:] if not word.startswith("-")}
