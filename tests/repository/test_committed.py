"""What the repository may hold: .ci/check_files.py on committed and on unfit files; line ends.

The unfit content is put together from pieces, or this file would be unfit itself.
"""

import base64
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from signs.commands import git

ROOT = Path(__file__).parents[2]
needs_checkout = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
INDEX = "https" + "://packages.example"
DIGEST = hashlib.sha512(b"sign").digest()
HEX, BASE64 = DIGEST.hex()[:40], base64.b64encode(DIGEST).decode()
UNFIT = {
    "aws.py": ('key = "AKIA' + 'Z2J4NPHQ7XKD5RTW"', "holds a secret (AWS Access Key)"),
    "id_rsa": ("-----BEGIN RSA " + "PRIVATE KEY-----", "holds a secret (Private Key)"),
    "remote.sh": ("git clone https://me:" + "hunter22@git.example/x", "(Basic Auth Credentials)"),
    "settings.py": ("pass" + 'word = "correct-horse-7"', "holds a secret (Secret Keyword)"),
    "token.py": (f'REVISION = "{HEX}"', "holds a secret (Hex High Entropy String)"),
    "code.ipynb": (f'  "text/plain": "{BASE64}"', "holds a secret (Base64 High Entropy String)"),
    "home.md": ("see /" + "home/someone/signs", "line 1 holds a path of one machine"),
    "root.sh": ("HOME=/" + "root", "holds a path of one machine"),
    "work.toml": ('path = "/' + 'work/main"', "holds a path of one machine"),
    "mac.toml": ('path = "/' + 'Users/someone"', "holds a path of one machine"),
    "windows.ps1": ("cd C:" + r"\Users\someone", "holds a path of one machine"),
    "windows.json": ('"C:' + r'\\Users\\someone"', "holds a path of one machine"),
    "scratch.sh": ("cp /" + "tmp/model.onnx .", "holds a path of one machine"),
    "link.html": ('<a href="file:///' + 'home/someone">', "holds a path of one machine"),
    "extra.txt": ("--extra-index-url " + INDEX, "package index's address"),
    "links.txt": ("--find-links " + INDEX, "package index's address"),
    "host.txt": ("--trusted-host " + "packages.example", "package index's address"),
    "pip.conf": (f"x = {INDEX}/" + "simple", "package index's address"),
    "uv.env": ("UV_DEFAULT_INDEX=" + INDEX, "package index's address"),
    "wheel.txt": ("a @ https://files." + "pythonhosted.org/a.whl", "package index's address"),
    "requirements/a.txt": ("numpy==2.4.6", "no version or no hash: numpy==2.4.6"),
    "requirements/b.txt": ("numpy>=2 \\\n    --hash=sha256:00", "no version or no hash"),
    "large.csv": ("0" * 1_000_001, "belongs to DVC"),
    "data/sign.png": ("", "image data belongs to DVC"),
}
FIT = {
    "requirements/c.txt": f"numpy==2.4.6 \\\n    --hash=sha256:{DIGEST.hex()[:64]}",
    "picture.ipynb": f'  "image/png": "{BASE64}",',
    "download.py": f'COMMIT = "{HEX}"',
    "containers/Dockerfile": "ENV HOME=/" + "tmp/service",
    "loopback.txt": "--index-url http://127.0.0.1:9/" + "simple",
    "address.md": "https://git.example/" + "home/page",
}


def check(folder: Path) -> tuple[int, str]:
    """Exit status and words of the check of all files that git tracks there."""
    listed = git("-c", f"safe.directory={folder}", "ls-files", "-z", at=folder).split("\0")[:-1]
    assert listed
    command = [sys.executable, ROOT / ".ci/check_files.py", *listed]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def commit(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content + "\n")
    git("init", "--quiet", at=folder)
    git("add", ".", at=folder)


@needs_checkout
def test_committed_files_are_fit_to_publish() -> None:
    assert check(ROOT) == (0, "")


@needs_checkout
def test_line_ends_are_those_of_unix_whatever_git_is_told(tmp_path: Path) -> None:
    git("clone", "--quiet", "-c", "core.autocrlf=true", str(ROOT), "clone", at=tmp_path)
    listed = git("ls-files", "--eol", at=tmp_path / "clone").splitlines()
    assert any("w/lf" in line for line in listed)
    assert not [line for line in listed if "w/crlf" in line or "w/mixed" in line]


def test_unfit_files_are_refused(tmp_path: Path) -> None:
    commit(tmp_path, {name: content for name, (content, _) in UNFIT.items()})
    status, said = check(tmp_path)
    assert status == 1
    for name, (_, message) in UNFIT.items():
        assert re.search(rf"^{re.escape(name)}: .*{re.escape(message)}", said, re.M), name


def test_what_only_looks_unfit_is_accepted(tmp_path: Path) -> None:
    commit(tmp_path, FIT)
    assert check(tmp_path) == (0, "")
