"""Refuses files that do not belong into the repository: `python .ci/check_files.py FILE...`.

Big files and image data belong to DVC. A package index's address or a path that
exists on one machine only breaks the project for everybody else. A requirement
without a hash installs whatever the index serves that day. A secret that was
committed is none any more.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings

MAX_BYTES = 1_000_000
MAX_RELEASED_BYTES = 1_500_000  # of a file in pretrained/
IMAGE_DATA = {".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".npz", ".png", ".ppm", ".zip"}
CONTAINER_FILES = re.compile(r"Dockerfile|Jenkinsfile")  # their paths are the container's own
LOOPBACK = r"(?!127\.0\.0\.1|localhost|\[::1\])"

INDEX_ADDRESS = re.compile(
    rf"https?://{LOOPBACK}[^\s\"'/]+/(?:[^\s\"']*/)?simple\b"
    r"|https?://[^\s\"']+/packages/[0-9a-f]{2}/[0-9a-f]{2}/"
    r"|files\.pythonhosted|--trusted-host[ =]+\w"
    rf"|(?:index|find.links)(?:[-_]url)?[ =:]+[\"']?(?:https?|file)://{LOOPBACK}",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(
    r"(?:(?<![\w.~:/-])|file://)/(?:(?:home|Users|tmp)/\w|root\b|work/)|\b[A-Za-z]:[\\/]+Users\b"
)
# What looks like a secret to a tool that measures randomness, only where it is none.
NO_SECRETS = [
    r"^ +--hash=sha256:[0-9a-f]{64}( \\)?$",  # the hash of a package in a lock
    r'^ +"image/(png|jpeg)": "[A-Za-z0-9+/=\\]+",?$',  # a picture in a notebook
    r'^ +"(version|sha256|fingerprint|data)": "[0-9a-f]{12,64}",$',  # of a released classifier
    r'^COMMIT = "[0-9a-f]{40}"$',  # a revision of a public repository
]
REQUIREMENT = re.compile(r"^[A-Za-z0-9][^#\n]*(?:\n +--hash=.*)*", re.MULTILINE)
PINNED = re.compile(r"^[A-Za-z0-9_.\[\]-]+==[^\n]*\\\n +--hash=sha256:[0-9a-f]{64}")


def problems(path: Path) -> Iterator[str]:
    """What is wrong with one file, a sentence each."""
    size = path.stat().st_size
    most = MAX_RELEASED_BYTES if path.parts[0] == "pretrained" else MAX_BYTES
    if size > most:
        yield f"{size:,} bytes; what is larger than {most:,} belongs to DVC"
    if path.parts[0] == "data" and path.suffix.lower() in IMAGE_DATA:
        yield "image data belongs to DVC, not to git"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if INDEX_ADDRESS.search(line):
            yield f"line {number} holds a package index's address"
        if MACHINE_PATH.search(line) and not CONTAINER_FILES.match(path.name):
            yield f"line {number} holds a path of one machine"
    for secret in scan_file(str(path)):
        yield f"line {secret.line_number} holds a secret ({secret.type})"
    if path.match("requirements/*.txt"):
        for requirement in REQUIREMENT.findall(text):
            if not PINNED.match(requirement):
                yield f"no version or no hash: {requirement.splitlines()[0]}"


def main(names: list[str]) -> int:
    """Print every problem of the named files; 1 if there is one."""
    with default_settings() as settings:
        settings.filters["detect_secrets.filters.regex.should_exclude_line"] = {
            "pattern": NO_SECRETS
        }
        found = [
            f"{name}: {problem}"
            for name in names
            if Path(name).is_file()
            for problem in problems(Path(name))
        ]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
