"""Fast check whether weights can be downloaded, because libraries retry for a minute."""

import os
import ssl
import threading
import urllib.error
import urllib.request


def is_offline() -> bool:
    """Return whether `HF_HUB_OFFLINE` forbids network access."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def answers(site: str, *, seconds: float) -> bool:
    """Return whether a web site answers within `seconds`, through the environment's proxy if there is one."""
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

    # In a separate thread, because resolving a host name can block longer than any timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(heard) and heard[0]
