"""Which machines count as the same kind."""

from pathlib import Path

import pytest

from signs import machine

MILAN = "processor : 0\ncpu family : 25\nmodel\t\t: 1\nmodel name : AMD EPYC\n\n"
GENOA = MILAN.replace("\t: 1", "\t: 17")
ARM = "processor : 0\nCPU implementer : 0x41\n"


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def describe(content: str, cores: int = 2) -> str:
        monkeypatch.setattr(machine, "cores", lambda: cores)
        file = tmp_path / "cpuinfo"
        file.write_text(content)
        return machine.processor(file)

    return describe


def test_processors_of_one_name_but_other_instructions_or_cores_differ(described) -> None:
    assert described(MILAN * 2) == "AMD EPYC, family 25, model 1, 2 cores"
    assert len({described(MILAN), described(GENOA), described(MILAN, cores=4)}) == 3


def test_a_processor_without_a_name_is_described_by_its_architecture(described) -> None:
    text = described(ARM)
    assert text.endswith(", 2 cores")
    assert not text.startswith(",")
