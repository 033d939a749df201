"""The notebook runs on this machine's results, and what it says holds for them."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks/from_leak_to_model.ipynb"

# Runs after the notebook's last cell. A trained network's figures differ from one processor to
# another, so nothing is said about them; nor is anything compared with the committed outputs.
CLAIMS = """
leaky, leak_free = remembered.to_numpy()
assert leaky.min() > 0.8, "almost nine of ten test photos have a duplicate; a memory reads them"
assert leak_free[0] == 0 and leak_free[1] < 0.3, "a memory reads poorly what it has not seen"
drop = classic["accuracy"].map(number)
assert drop.iloc[0] - drop.iloc[1] > 10, "the original network's accuracy was mostly the leak"
assert (compact["accuracy"].map(number) > drop.iloc[1]).all(), "ours is better without the leak"
assert audit["train"] + audit["validation"] + audit["test"] <= audit["files"]
assert 1 <= len(run) <= len(tried)
"""


@pytest.mark.slow
def test_it_runs_and_its_claims_hold() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(CLAIMS))
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()


def test_the_committed_one_was_executed_from_top_to_bottom() -> None:
    code = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if "outputs" in cell]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell.outputs if out.output_type == "error"]
