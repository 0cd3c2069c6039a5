"""Whether weights can be downloaded: asked for a few seconds before a library tries for a minute."""

import os
import ssl
import threading
import urllib.error
import urllib.request


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def answers(site: str, *, seconds: float) -> bool:
    """Whether a web site says anything within `seconds`, through the proxy of the environment where there is one."""
    heard: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(site, method="HEAD"), timeout=seconds):
                heard.append(True)
        except urllib.error.HTTPError as error:
            error.close()
            heard.append(True)
        except urllib.error.URLError as error:
            heard.append(isinstance(error.reason, ssl.SSLError))
        except (OSError, ValueError):
            heard.append(False)

    # In a thread of its own, for a name that does not resolve can hold the caller longer than any timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(heard) and heard[0]
