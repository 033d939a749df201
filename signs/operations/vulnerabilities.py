"""Look for known vulnerabilities of the locked packages with pip-audit.

    signs vulnerabilities                   asks PyPI
    signs vulnerabilities --service osv     asks osv.dev

Exits with 1 if a package is vulnerable, or if the service does not know one of them. Installs
nothing, and skips packages for other systems and Python versions. Vulnerabilities that are accepted
for a while are listed in requirements/accepted.toml. `make vulnerabilities` runs it in an
environment of its own, of requirements/security.txt.
"""

import argparse
import datetime
import subprocess
import sys
import tomllib
from pathlib import Path

from signs.errors import UserError

LOCKS = Path("requirements")
ACCEPTED = LOCKS / "accepted.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "-s", "--service", choices=["pypi", "osv", "esms"], default="pypi", help="default: pypi"
    )
    parser.add_argument("--osv-url", metavar="URL", help="another address of osv.dev's interface")


def run(arguments: argparse.Namespace) -> int:
    """Check all locks; 1 if pip-audit found anything; `UserError` if it could not check one."""
    # Without --strict, packages that the service does not know pass silently: all of them, where a
    # mirror of PyPI offers packages but no vulnerabilities.
    command = [sys.executable, "-m", "pip_audit", "--strict", "--require-hashes", "--disable-pip"]
    command += ["--progress-spinner=off", "--vulnerability-service", arguments.service]
    if arguments.osv_url:
        command += ["--osv-url", arguments.osv_url]
    for name in _accepted(datetime.date.today()):
        command += ["--ignore-vuln", name]
    failed = False
    # One by one: two locks may name different versions of a package, and pip-audit refuses that.
    for lock in sorted(LOCKS.glob("*.txt")):
        checked = [*command, "--requirement", str(lock)]
        result = subprocess.run(checked, capture_output=True, text=True)
        last = result.stderr.strip().rpartition("\n")[2].removeprefix("ERROR:pip_audit._cli:")
        if result.returncode and not result.stdout:  # the table comes after all answers
            raise UserError(f"{lock} could not be checked. pip-audit says: {last}")
        print(f"{lock}: {last}\n{result.stdout}", end="", flush=True)
        failed |= result.returncode != 0
    return 1 if failed else 0


def _accepted(today: datetime.date) -> list[str]:
    """The vulnerabilities to ignore."""
    accepted = []
    try:
        for name, entry in tomllib.loads(ACCEPTED.read_text(encoding="utf-8")).items():
            if entry["until"] < today:
                print(f"No longer accepted: {name}, until {entry['until']}: {entry['reason']}")
            else:
                print(f"Accepted until {entry['until']}: {name}: {entry['reason']}")
                accepted.append(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{ACCEPTED} cannot be used ({error!r}); its first lines say what it contains."
        ) from error
    return accepted
