"""Passwords and keys in URIs: refused where they are given, for a run copies its config to many places.

They would stand in config.yaml, in MLflow's params, in reports and messages, for all who may read these.
"""

from __future__ import annotations

import re

from rtk.config.errors import ConfigError

PASSWORD = re.compile(r"(?<=://)([^/\s:@\"',]*):[^/\s@\"',]+@")  # scheme://USER:PASSWORD@host
KEY = re.compile(
    r"([?&](?:password|secret|token|secret_key|session_token|sas_token|account_key|sig)=)[^&\s]+", re.I
)
INSTEAD = (
    "give it by the environment (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PGPASSWORD, "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS) or by a role of the machine"
)


def refuse_secrets(key: str, value: object) -> None:
    """Refuse a value in which a URI holds a password or a key, without repeating it.

    Raises:
        ConfigError: naming `key`, the dotted key or option that it was given for.
    """
    text = str(value)
    if "://" in text and without_secrets(text) != text:
        raise ConfigError(f"{key}: the URI holds a password or a key, and would be copied; {INSTEAD}")


def without_secrets(text: str) -> str:
    """Text in which the passwords and keys of URIs are replaced by `***`."""
    return KEY.sub(r"\1***", PASSWORD.sub(r"\1:***@", text))
