"""`python -m tests.flows.resolving ARGUMENTS`: the command `crash ARGUMENTS`, with the number of times that it resolved
inputs as the last line of its output."""

import atexit
from typing import Any

from flows.cli.main import main
from flows.running import inputs

resolve, count = inputs.Inputs.__init__, 0


def counted(self: inputs.Inputs, *given: Any, **named: Any) -> None:
    """Resolve and count."""
    global count
    count += 1
    resolve(self, *given, **named)


if __name__ == "__main__":
    inputs.Inputs.__init__ = counted  # type: ignore[method-assign]
    atexit.register(lambda: print(f"resolved {count}"))
    main()
