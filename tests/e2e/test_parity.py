"""The program that measures parity: which answer counts, what its tables say, where they go."""

import math

import pytest

from benchmarks import parity
from benchmarks.parity import BEGIN, COLUMNS, END, FAMILIES, Cell, family_table, write_readme
from tests.e2e.goldens import NAMES, Comparison, Golden, compare, load_goldens

GOLDEN = next(golden for golden in load_goldens() if golden.model == "pvc")


def answer(golden: Golden, shift: float = 0.0, **changes: object) -> dict:
    """What the daemon would say; shift: of one log probability."""
    steps = []
    for token_id, row in zip(golden.greedy_ids, golden.logprobs, strict=True):
        top = [{"logprob": value} for value in row.topk(5).values.tolist()]
        steps.append({"logprob": row[token_id].item(), "top_logprobs": top})
    steps[3]["logprob"] += shift
    choice = {
        "token_ids": golden.greedy_ids,
        "message": {"content": golden.greedy_text},
        "logprobs": {"content": steps},
    }
    return {"prompt_token_ids": golden.prompt_ids, "choices": [choice | changes]}


def test_an_answer_is_exact_within_the_tolerance_only():
    assert compare(GOLDEN, answer(GOLDEN)).is_exact
    near, far = (compare(GOLDEN, answer(GOLDEN, shift)) for shift in (-9e-4, 2e-3))
    assert near.is_exact and near.max_difference == pytest.approx(9e-4)
    assert not far.is_exact and far.max_difference == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("changes", "word"), [({"token_ids": [1, 2]}, "greedy ids"), ({"message": {"content": "no"}}, "text")]
)
def test_what_differs_is_named(changes: dict, word: str):
    found = compare(GOLDEN, answer(GOLDEN, **changes))
    assert found.max_difference == math.inf and not found.is_exact
    assert len(found.problems) == 1 and word in found.problems[0] and "pvc/text" in found.problems[0]


def test_an_answer_that_lacks_a_step_is_not_exact():
    cut = answer(GOLDEN)
    cut["choices"][0]["logprobs"]["content"].pop()
    assert not compare(GOLDEN, cut).is_exact


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_answers_to_a_case_the_worst_counts(order: int):
    cell = Cell()
    for comparison in [Comparison([], 1e-5), Comparison(["x"], math.inf), Comparison([], 2e-5)][::order]:
        cell.add(GOLDEN, comparison)
    assert (cell.num_exact, len(cell.found), cell.max_difference) == (0, 1, math.inf)


def test_every_golden_set_belongs_to_one_family():
    assert sorted(model for _, _, models in FAMILIES for model in models) == sorted(NAMES)


def test_a_family_counts_cases_that_are_exact_in_every_way():
    cells = {("pvc", column): Cell({"a": Comparison([], 1e-5), "b": Comparison([], 2e-5)}) for column in COLUMNS}
    assert "| 2 of 2 | 2.0e-05 |" in family_table(cells)
    cells["pvc", "chunked"].found["b"] = Comparison([], 1e-2)
    assert "| 1 of 2 | 1.0e-02 |" in family_table(cells)


def test_the_table_replaces_what_stands_between_the_marks(tmp_path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "README.md"
    monkeypatch.setattr(parity, "README", page)
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_readme("new")
    write_readme("newer")
    assert page.read_text() == f"before\n{BEGIN}\n\nnewer\n\n{END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="lacks"):
        write_readme("new")
    assert page.read_text() == "nothing"
