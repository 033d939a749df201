"""The HAProxy in front of the two containers: started when first needed, never reloaded."""

import contextlib
import csv
import os
import shutil
import socket
import string
import time
from pathlib import Path

from deployment.container import Values, run
from signs.errors import UserError
from signs.files import write_text

SLOTS = ("blue", "green")
TEMPLATE = Path(__file__).with_name("haproxy.cfg")


class Proxy:
    """HAProxy on the stable port; `folder` has its configuration, socket and process id.

    Raises UserError if HAProxy is not installed.
    """

    def __init__(self, values: Values, folder: Path) -> None:
        self.values, self.folder = values, folder
        found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
        if found is None:
            raise UserError("HAProxy is not installed (on Debian and Ubuntu: apt install haproxy).")
        self.program = found

    def active(self) -> str | None:
        """The slot that gets new requests; None if the proxy does not run."""
        with contextlib.suppress(OSError):
            servers = self._servers()
            return next((slot for slot in SLOTS if servers[slot]["status"] == "no check"), None)
        return None

    def switch(self, slot: str) -> None:
        """Let `slot` get the new requests; UserError if HAProxy does not start."""
        # The file counts when HAProxy starts, here or after a restart of the machine.
        (old,) = set(SLOTS) - {slot}
        settings = vars(self.values) | {"folder": self.folder, slot: "", old: "disabled"}
        template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
        configuration = self.folder / "haproxy.cfg"
        write_text(configuration, template.substitute(settings))
        try:
            # One line, so that there is no moment without a server.
            server = "set server service/"
            self._tell(f"{server}{slot} state ready; {server}{old} state drain")
        except OSError:
            done = run(self.program, "-D", "-f", str(configuration))
            if done.returncode:
                raise UserError(f"HAProxy does not start: {done.stderr.strip()}") from None

    def drain(self, slot: str, seconds: float) -> None:
        """Wait until `slot` has answered the requests that it has, at most so long."""
        until = time.monotonic() + seconds
        while int(self._servers()[slot]["scur"]) and time.monotonic() < until:
            time.sleep(0.1)

    def _servers(self) -> dict[str, dict[str, str]]:
        lines = self._tell("show stat").removeprefix("# ").splitlines()
        return {row["svname"]: row for row in csv.DictReader(lines) if row["pxname"] == "service"}

    def _tell(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "haproxy.sock"))
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
