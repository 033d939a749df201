"""The notebook tells the present state: executed anew, it says what the committed one says."""

import copy
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def words(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell printed or showed as a table; pictures depend on the fonts of a machine."""
    # Joined: what a cell prints arrives in one piece or in several, as it happens.
    return [
        "".join(
            output.get("text") or output.get("data", {}).get("text/html", "")
            for output in cell.get("outputs", [])
            if output["output_type"] != "stream" or output["name"] == "stdout"
        )
        for cell in notebook.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_executed_anew_it_says_the_same(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    fresh = copy.deepcopy(committed)
    nbclient.NotebookClient(
        fresh, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    assert any(words(fresh))
    assert words(committed) == words(fresh), "run `make notebook` and commit what it changes"


def test_there_is_a_notebook() -> None:
    assert list(NOTEBOOKS.glob("*.ipynb"))
