"""Every golden case of every family over HTTP, beside what the authors' code computed: how far apart they are.

    python -m benchmarks.parity [--only MODEL ...] [--group 4] [--readme]

GLIMPSED_GOLDENS names a full set of goldens; without it the lean copy in tests/goldens is used. Fails when a case is
not exact. --readme: put the table of families into README.md as well.
"""

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks.daemon import Daemon, serve
from benchmarks.report import write_report
from tests.e2e.goldens import (
    LEAN,
    LOGPROB_TOLERANCE,
    ROOT,
    Comparison,
    Golden,
    compare,
    group_models,
    load_goldens,
    tight_pages,
)

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- parity: begin -->", "<!-- parity: end -->"
BATCH = 8
FAMILIES = (
    ("InternVL-Chat V1.1, V1.2, V1.2-Plus", "Llama 2, Yi", ("internvl-chat-v1-1", "internvl-chat-v1-2")),
    ("InternVL-Chat V1.5, Mini-InternVL-Chat V1.5", "InternLM2, InternViT-6B", ("internvl-chat-v1-5",)),
    ("InternVL-Chat-V1.5-Int8", "LLM.int8 layout, expanded while loading", ("internvl-chat-v1-5-int8",)),
    (
        "InternVL2, 2.5, 3",
        "InternLM2, Qwen2, Phi-3, Llama; dynamic NTK, longrope",
        (
            "internvl2-internlm2",
            "internvl2-internlm2-longrope",
            "internvl2_5-qwen2",
            "internvl2-qwen2",
            "internvl2-phi3",
        ),
    ),
    ("Mono-InternVL", "visual experts, no vision tower", ("mono-internvl", "mono-internvl-ext")),
    ("HoVLE, HoVLE-HD", "two causal stacks, both with K/V", ("hovle", "hovle_hd")),
    (
        "InternVideo2-Chat, -HD, -HD-F16",
        "video tower, Q-Former, Mistral",
        ("internvideo2-chat", "internvideo2-chat-hd"),
    ),
    ("PVC-InternVL2 (experimental)", "against a re-implementation, not the released code", ("pvc",)),
)
NOTES = f"""\
Cases of tiny checkpoints in the published layouts, float32. Exact: prompt ids, greedy ids and text are equal to those
of the reference and no log probability (chosen token and five likeliest, each step) differs by more than
{LOGPROB_TOLERANCE:g}; the figure is the largest difference. alone: one request at a time; the others: {BATCH} or more
of one model at once. chunked: 16 tokens a step. preempting: pages for little more than the longest case, and each
request goes before those sent earlier; in brackets how often a sequence lost its pages. `pvc` is held to a
re-implementation of a paper (docs/models.md)."""


@dataclass(frozen=True)
class Way:
    """How the engine is made to run. flags: of `glimpsed serve`; empty for as many pages as are needed and no more."""

    name: str
    flags: tuple[str, ...]
    runs: tuple[str, ...]
    """"alone", "batch" or both, each a column of its own."""


ROOMY = ("--num-kv-blocks", "2000")
WAYS = (
    Way("as-is", ROOMY, ("alone", "batch")),
    Way("chunked", (*ROOMY, "--max-num-batched-tokens", "16", "--max-num-seqs", "8"), ("batch",)),
    Way("preempting", (), ("batch",)),
    Way("no prefix cache", (*ROOMY, "--no-prefix-cache"), ("batch",)),
)
COLUMNS = ("alone", "batch", "chunked", "preempting", "no prefix cache")


@dataclass
class Cell:
    """One model in one column."""

    found: dict[str, Comparison] = field(default_factory=dict)
    num_preemptions: int = 0

    def add(self, golden: Golden, comparison: Comparison) -> None:
        """Of several answers to a case the worst counts."""
        before = self.found.get(golden.name)
        if before is None or before.max_difference <= comparison.max_difference:
            self.found[golden.name] = comparison

    @property
    def num_exact(self) -> int:
        return sum(comparison.is_exact for comparison in self.found.values())

    @property
    def max_difference(self) -> float:
        return max(comparison.max_difference for comparison in self.found.values())

    def __str__(self) -> str:
        preempted = f" ({self.num_preemptions})" if self.num_preemptions else ""
        return f"{self.num_exact}/{len(self.found)}, {self.max_difference:.1e}{preempted}"


Cells = dict[tuple[str, str], Cell]


def main() -> int:
    """Run all ways; the exit code is 1 when a case is not exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=None, metavar="MODEL")
    parser.add_argument("--group", type=int, default=4, metavar="N", help="models served at a time")
    parser.add_argument("--readme", action="store_true")
    arguments = parser.parse_args()
    goldens = [golden for golden in load_goldens() if arguments.only is None or golden.model in arguments.only]
    cells: Cells = {}
    for models in group_models(goldens, arguments.group):
        for way in WAYS:
            # Pages are few only for models with cases of that length.
            for served in [models] if way.flags else [[model] for model in models]:
                _run(way, served, goldens, cells)
    _report(goldens, cells)
    if arguments.readme:
        write_readme(family_table(cells))
    wrong = [problem for cell in cells.values() for one in cell.found.values() for problem in one.problems]
    print(*wrong, sep="\n", file=sys.stderr)
    return 0 if all(cell.num_exact == len(cell.found) for cell in cells.values()) else 1


def _run(way: Way, models: Sequence[str], goldens: Sequence[Golden], cells: Cells) -> None:
    flags = way.flags or tight_pages(list(goldens), list(models))
    folders = [f"{name}={ROOT / name / 'checkpoint'}" for name in models]
    fixed = ("--device", "cpu", "--dtype", "float32", "--max-model-len", "4096")
    with serve([*folders, *flags, *fixed]) as daemon:
        for model in models:
            own = [golden for golden in goldens if golden.model == model]
            for run in way.runs:
                column = run if way.name == "as-is" else way.name
                cell = cells.setdefault((model, column), Cell())
                asked = own if run == "alone" else (own * BATCH)[: max(BATCH, len(own))]
                answers = asyncio.run(_ask_all(daemon, asked, one_by_one=run == "alone", is_urgent=not way.flags))
                for golden, answer in zip(asked, answers, strict=True):
                    cell.add(golden, compare(golden, answer))
        daemon.wait_until_idle()
        for model in models:
            cells[model, column].num_preemptions = _preemptions(daemon, model)


async def _ask_all(
    daemon: Daemon, goldens: Sequence[Golden], one_by_one: bool, is_urgent: bool
) -> list[dict[str, Any]]:
    """is_urgent: each request goes before those sent earlier, and takes the pages that it needs from them."""
    async with httpx.AsyncClient(base_url=daemon.url, timeout=300) as client:
        if one_by_one:
            return [await _ask(client, golden) for golden in goldens]
        priorities = [-number if is_urgent else 0 for number in range(len(goldens))]
        return await asyncio.gather(*map(partial(_ask, client), goldens, priorities))


async def _ask(client: httpx.AsyncClient, golden: Golden, priority: int = 0) -> dict[str, Any]:
    body = {"model": golden.model, "priority": priority, **golden.body}
    reply = await client.post("/v1/chat/completions", json=body)
    if reply.status_code != 200:
        raise RuntimeError(f"{golden}: {reply.status_code} {reply.text}")
    answer: dict[str, Any] = reply.json()
    return answer


def _preemptions(daemon: Daemon, model: str) -> int:
    text = httpx.get(f"{daemon.url}/metrics").text
    counts = re.findall(rf'^glimpsed_worker_engine_preemptions_total{{.*model="{model}".*}} (\S+)$', text, re.MULTILINE)
    return int(sum(map(float, counts)))


def _report(goldens: Sequence[Golden], cells: Cells) -> None:
    models = sorted({golden.model for golden in goldens})
    rows = [(model, *(str(cells[model, column]) for column in COLUMNS)) for model in models]
    header = ["golden set", "alone", f"batch of {BATCH}", *COLUMNS[2:]]
    notes = f"{NOTES} {'The lean copy' if ROOT == LEAN else 'The full set'} of goldens, {len(goldens)} cases."
    write_report("parity", "Agreement with the reference implementations", notes, header, rows)


def family_table(cells: Cells) -> str:
    """Markdown: cases that are exact in every way, of all; the largest difference in any."""
    lines = ["| family | what is special | cases exact in all ways | largest difference |", "|---|---|---|---|"]
    for name, special, models in FAMILIES:
        own = [cell for (model, _), cell in cells.items() if model in models]
        if not own:
            continue
        names = {(model, case) for (model, _), cell in cells.items() if model in models for case in cell.found}
        exact = [
            (model, case)
            for model, case in names
            if all(cells[model, column].found[case].is_exact for column in COLUMNS)
        ]
        difference = max(cell.max_difference for cell in own)
        lines.append(f"| {name} | {special} | {len(exact)} of {len(names)} | {difference:.1e} |")
    return "\n".join(lines)


def write_readme(table: str) -> None:
    """Replace what stands between the two marks. Raises ValueError where they are missing."""
    text = README.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README} lacks {BEGIN} or {END}")
    README.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
