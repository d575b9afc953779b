"""Tell somebody, by whatever service they use, through Apprise (extra `notify`).

VARIANTS_NOTIFY holds the addresses, with their credentials, apart by spaces: mailto://..., slack://..., json://...;
it is read from the environment only, and never written anywhere.
"""

import os
from typing import Literal

from variants import InputError

VARIABLE = "VARIANTS_NOTIFY"
Kind = Literal["info", "success", "warning", "failure"]


def check() -> None:
    """Raise `InputError` where VARIANTS_NOTIFY asks for what cannot be sent, before any work."""
    addresses = os.environ.get(VARIABLE, "").split()
    if not addresses:
        return
    try:
        import apprise
    except ImportError as error:
        raise InputError(
            f"{VARIABLE} is set, and Apprise is not installed; pip install vae-variants[notify]"
        ) from error
    for number, address in enumerate(addresses, 1):
        if apprise.Apprise.instantiate(address) is None:
            scheme = f" ({address.split('://', 1)[0]}://...)" if "://" in address else ""
            raise InputError(
                f"{VARIABLE}: address {number}{scheme} is none that Apprise knows; expected such as "
                "mailto://USER:PASSWORD@HOST or slack://TOKENS (its documentation lists all)"
            )


def send(title: str, body: str, kind: Kind) -> str:
    """Send to every address. Returns what went wrong, or nothing; without addresses, nothing is sent."""
    addresses = os.environ.get(VARIABLE, "").split()
    if not addresses:
        return ""
    import apprise

    failed = []
    for address in addresses:
        one = apprise.Apprise()
        if not one.add(address) or not one.notify(body=body, title=title, notify_type=kind, body_format="markdown"):
            failed.append(address.split(":", 1)[0])
    return f"no notification was sent by {', '.join(failed)}" if failed else ""
