"""Writes down each attempt of any Python process to reach another machine, also those that someone swallows.

Python imports it at the start of each process whose PYTHONPATH leads here; the file is named by $CONNECTIONS. Not a
test itself. It sees what goes through Python's own sockets: a library's C++ that opens its own is for `unshare -n`.
"""

import os
import sys

_NAMES = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")
_HERE = ("", "localhost", "::", "::1", "0.0.0.0")


def _watch(event: str, arguments: tuple) -> None:
    if event not in _NAMES:
        return
    place = arguments[0] if event.startswith("socket.get") else arguments[1]
    host = place[0] if isinstance(place, tuple) else place
    is_unix = event in _NAMES[:3] and not isinstance(place, tuple)
    host = host.decode(errors="replace") if isinstance(host, bytes) else host
    if is_unix or host is None or host in _HERE or host.startswith("127."):
        return
    record = os.open(os.environ["CONNECTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(record, f"{event} {host}\n".encode())
    os.close(record)


if "CONNECTIONS" in os.environ:
    sys.addaudithook(_watch)
