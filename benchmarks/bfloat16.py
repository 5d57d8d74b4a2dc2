"""How far answers in bfloat16 are from the float32 references, for every golden set.

    python -m benchmarks.bfloat16 [--group 4]

The tiny checkpoints of the goldens have random weights and flat distributions, so that greedy ids part soon; what is
compared is the log probability of the reference's token at each step up to the first one that differs. GLIMPSED_GOLDENS
names a full set of goldens.
"""

import argparse
from statistics import mean
from typing import Any

import httpx

from benchmarks.daemon import serve
from benchmarks.report import write_report
from tests.e2e.goldens import ROOT, Golden, group_models, load_goldens

NOTES = (
    "All cases, one request at a time. Distances: of the natural log probability of the reference's greedy token, at "
    "the steps whose history is still the reference's. Ids: the share of greedy ids up to the first that differs."
)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--group", type=int, default=4, metavar="N", help="models served at a time")
    asked = args.parse_args()
    goldens = load_goldens()
    rows: list[tuple[object, ...]] = []
    for models in group_models(goldens, asked.group):
        folders = [f"{name}={ROOT / name / 'checkpoint'}" for name in models]
        flags = ("--num-kv-blocks", "2000", "--device", "cpu", "--dtype", "bfloat16", "--max-model-len", "4096")
        with serve([*folders, *flags]) as daemon, httpx.Client(base_url=daemon.url, timeout=300) as client:
            for model in models:
                own = [golden for golden in goldens if golden.model == model]
                rows.append(_row(model, own, [_ask(client, golden) for golden in own]))
    header = ["golden set", "cases", "mean distance", "largest distance", "ids before the first that differs"]
    write_report("bfloat16", "bfloat16 beside the float32 references", NOTES, header, sorted(rows))


def _ask(client: httpx.Client, golden: Golden) -> dict[str, Any]:
    reply = client.post("/v1/chat/completions", json={"model": golden.model, **golden.body, "top_logprobs": 20})
    if reply.status_code != 200:
        raise RuntimeError(f"{golden}: {reply.status_code} {reply.text}")
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


def _row(model: str, goldens: list[Golden], choices: list[dict[str, Any]]) -> tuple[object, ...]:
    distances: list[float] = []
    shares: list[float] = []
    for golden, choice in zip(goldens, choices, strict=True):
        pairs = zip(choice["token_ids"], golden.greedy_ids, strict=False)
        same = next((at for at, (ours, theirs) in enumerate(pairs) if ours != theirs), len(golden.greedy_ids))
        shares.append(same / len(golden.greedy_ids))
        for at, step in enumerate(choice["logprobs"]["content"][:same]):
            distances.append(abs(step["logprob"] - golden.logprobs[at, golden.greedy_ids[at]].item()))
    return model, len(goldens), mean(distances), max(distances), f"{mean(shares):.0%}"


if __name__ == "__main__":
    main()
