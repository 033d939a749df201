"""Whether a locked package has a known vulnerability.

    make audit                      asks PyPI
    make audit ARGS='-s osv'        asks osv.dev; whatever pip-audit knows may stand here

Prints what was found and exits with 1 if there is anything, or if not all packages could be asked
about. What is accepted for a while stands in requirements/accepted.toml. Nothing is installed; of
packages for other systems and Python versions than this one nothing is asked. Runs in an
environment of its own: requirements/audit.txt.
"""

import datetime
import subprocess
import sys
import tomllib
from pathlib import Path

from signs.errors import UserError, run_stage

LOCKS = Path("requirements")
ACCEPTED = LOCKS / "accepted.toml"


def audit() -> None:
    """Let pip-audit ask about all locks."""
    # Strict, since without it a package that the service does not know is passed over, and all of
    # them where a mirror stands before PyPI that has packages and nothing else.
    command = [sys.executable, "-m", "pip_audit", "--strict", "--require-hashes", "--disable-pip"]
    command += ["--progress-spinner=off"]
    for name in _accepted(datetime.date.today()):
        command += ["--ignore-vuln", name]
    failed = False
    # One by one, as no two may name different versions of a package.
    for lock in sorted(LOCKS.glob("*.txt")):
        result = subprocess.run(
            [*command, "--requirement", str(lock), *sys.argv[1:]], capture_output=True, text=True
        )
        last = result.stderr.strip().rpartition("\n")[2]
        if result.returncode and not result.stdout:  # a table comes after all answers
            raise UserError(
                f"{lock} could not be checked, so nothing is known of it. pip-audit says: "
                f"{last.removeprefix('ERROR:pip_audit._cli:')}"
            )
        print(f"{lock}: {last}", flush=True)
        print(result.stdout, end="")
        failed |= result.returncode != 0
    if failed:
        sys.exit(1)


def _accepted(today: datetime.date) -> list[str]:
    """Vulnerabilities to pass over."""
    try:
        entries = tomllib.loads(ACCEPTED.read_text(encoding="utf-8"))
        accepted = []
        for name, entry in entries.items():
            until, reason = entry["until"], str(entry["reason"])
            if until < today:
                print(f"No longer accepted: {name}, until {until}: {reason}")
            else:
                print(f"Accepted until {until}: {name}: {reason}")
                accepted.append(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{ACCEPTED} cannot be used ({error!r}); its first lines say what it holds."
        ) from error
    return accepted


if __name__ == "__main__":
    run_stage(audit)
