"""Checks that the commands of a party send numbers only to servers that its own settings name."""

import os
from urllib.parse import urlsplit

from flows.settings.tables import Place
from tasks.core.errors import InputError
from tasks.store.loopback import is_loopback
from tasks.tracking.servers import redact_url

VARIABLE = "MLFLOW_TRACKING_URI"


def require_own_tracking(place: Place) -> None:
    """Check that the numbers of an exchange go to a tracking server only as this party has decided.

    Commands call it, before variables of a home's own servers are set; deployments use the server of their worker.

    Raises:
        InputError: when the environment alone names a server on another machine, or as `require_no_password`.
    """
    require_no_password(place)
    given = os.environ.get(VARIABLE, "").strip()
    if given and not place.mlflow and not _is_here(given):
        raise InputError(
            f"{VARIABLE} = {redact_url(given)} is on another machine, and parties of an exchange share no server: name"
            " it as place.mlflow if it is your own, or unset the variable"
        )


def require_no_password(place: Place) -> None:
    """Check that nothing secret is stored with the settings.

    Raises:
        InputError: when the address in `place.mlflow` has a user or a password.
    """
    if place.mlflow and redact_url(place.mlflow) != place.mlflow:
        raise InputError(
            f"place.mlflow = {redact_url(place.mlflow)} has a user or a password, and settings are stored: give them as"
            " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


def _is_here(address: str) -> bool:
    if address.startswith(("sqlite:", "file:")) or "://" not in address:
        return not address.startswith("databricks")
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False
