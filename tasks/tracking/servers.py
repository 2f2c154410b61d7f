"""Servers that a run reports to: whether one answers, and how its address may be shown."""

import os
import re

from tasks.store.boundary import first_words

ANSWER_SECONDS = 5.0
# Between `scheme://` and the last @ before a query; a path on this machine may hold an @ of its own.
CREDENTIALS = r"^((?!sqlite|file)[a-z][a-z0-9+.-]*://)[^?#]*@"
# The same within a sentence, where an address ends at a space.
CREDENTIALS_WITHIN = r"\b([a-z][a-z0-9+.-]*://)[^\s/?#]*@"
# Where SQLAlchemy begins to quote the statement and the values that it wrote.
STATEMENT = "[SQL:"


def shown(address: str) -> str:
    """The address without the `user:password@` that it may hold: fit for a message, a link or a record."""
    return re.sub(CREDENTIALS, r"\1", address)


def reason(error: BaseException) -> str:
    """The first words of an error of a server or its client, without credentials or written values."""
    words = re.sub(CREDENTIALS_WITHIN, r"\1", first_words(error).partition(STATEMENT)[0])
    return words.strip().rstrip(".") or type(error).__name__


def unreachable(address: str) -> str | None:
    """Why a server does not answer at this address (an error's name); None where it answers that it is well."""
    import httpx

    try:
        httpx.get(address, timeout=ANSWER_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
    return None


def refusal(uri: str) -> int | None:
    """401 or 403 where an MLflow server wants other credentials than ours, else None; a slow one has not refused.

    Sends what MLflow's client would: what the address holds, else the variables MLFLOW_TRACKING_USERNAME and _PASSWORD.
    """
    import httpx

    name, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    ours = httpx.BasicAuth(name, password) if name and password and shown(uri) == uri else None
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    try:
        status = httpx.get(address, params={"max_results": 1}, auth=ours, timeout=ANSWER_SECONDS).status_code
    except httpx.HTTPError:
        return None
    return status if status in (401, 403) else None
