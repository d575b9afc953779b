"""Notifications by e-mail, chat and other services, through Apprise (the extra `notify`).

The environment variable VARIANTS_NOTIFY holds Apprise addresses with their credentials, separated by spaces, such as
mailto://..., slack://... or json://.... They are only read from there, and never written anywhere.
"""

import os
from typing import Literal

from variants import InputError

VARIABLE = "VARIANTS_NOTIFY"
Kind = Literal["info", "success", "warning", "failure"]


def _addresses() -> list[str]:
    return os.environ.get(VARIABLE, "").split()


def check() -> None:
    """Raise `InputError` if Apprise is missing, or does not understand one of the addresses."""
    if not _addresses():
        return
    try:
        import apprise
    except ImportError as error:
        raise InputError(
            f"{VARIABLE} is set, but Apprise is not installed; pip install vae-variants[notify]"
        ) from error
    for number, address in enumerate(_addresses(), 1):
        if apprise.Apprise.instantiate(address) is None:
            scheme = f" ({address.split('://', 1)[0]}://...)" if "://" in address else ""
            raise InputError(
                f"{VARIABLE}: Apprise does not understand address {number}{scheme}; expected for example "
                "mailto://USER:PASSWORD@HOST or slack://TOKENS (the documentation of Apprise lists all services)"
            )


def send(title: str, body: str, kind: Kind) -> str:
    """Send a message in Markdown to every address. Returns which services failed, or nothing if all went well."""
    addresses = _addresses()
    if not addresses:
        return ""
    import apprise

    failed = []
    for address in addresses:
        service = apprise.Apprise()
        if not service.add(address) or not service.notify(
            body=body, title=title, notify_type=kind, body_format="markdown"
        ):
            failed.append(address.split(":", 1)[0])
    return f"no notification was sent by {', '.join(failed)}" if failed else ""
