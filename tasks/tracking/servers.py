"""Servers that a run reports to: whether one answers, and how to show its address without credentials."""

import os
import re

from tasks.store.boundary import first_words

ANSWER_SECONDS = 5.0
# Between `scheme://` and the last @ before a query; a local path may contain an @ too.
CREDENTIALS = r"^((?!sqlite|file)[a-z][a-z0-9+.-]*://)[^?#]*@"
# The same within a sentence, where an address ends at a space.
CREDENTIALS_WITHIN = r"\b([a-z][a-z0-9+.-]*://)[^\s/?#]*@"
# Where SQLAlchemy starts to quote the statement and its values.
STATEMENT = "[SQL:"


def redact_url(address: str) -> str:
    """Return the address without any `user:password@`, fit for a message, a link or a record."""
    return re.sub(CREDENTIALS, r"\1", address)


def reason(error: BaseException) -> str:
    """Return the first words of an error of a server or its client, without credentials or written values."""
    words = re.sub(CREDENTIALS_WITHIN, r"\1", first_words(error).partition(STATEMENT)[0])
    return words.strip().rstrip(".") or type(error).__name__


def unreachable(address: str) -> str | None:
    """Return why a server does not answer at this address (an error's name); None if it answers without an error."""
    import httpx

    try:
        httpx.get(address, timeout=ANSWER_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return type(error).__name__
    return None


def refusal(uri: str) -> int | None:
    """Return 401 or 403 if an MLflow server refuses our credentials, else None; a slow server has not refused.

    Sends what MLflow's client would: credentials of the address, or MLFLOW_TRACKING_USERNAME and _PASSWORD.
    """
    import httpx

    name, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    ours = httpx.BasicAuth(name, password) if name and password and redact_url(uri) == uri else None
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    try:
        status = httpx.get(address, params={"max_results": 1}, auth=ours, timeout=ANSWER_SECONDS).status_code
    except httpx.HTTPError:
        return None
    return status if status in (401, 403) else None
