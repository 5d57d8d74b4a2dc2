"""Runs golden cases through a model as the engine would: packed, in chunks, greedy."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.workers.models.dense_attention import DenseAttention
from tests.workers.models.goldens import Case, context_id, model
from workers.attention.base import Step


@dataclass
class Run:
    """One case on its way: what is to be embedded next, what has been seen, what came out."""

    case: Case
    prompt: Tensor
    num_seen: int = 0
    logits: list[Tensor] = field(default_factory=list)

    @property
    def num_prompt(self) -> int:
        return len(self.prompt)

    @property
    def is_done(self) -> bool:
        return len(self.logits) == len(self.case.greedy_ids)

    def next_hidden(self, chunk: int) -> Tensor:
        """The next at most `chunk` prompt rows, or the row of the token chosen last (the reference's choice)."""
        if self.num_seen < self.num_prompt:
            return self.prompt[self.num_seen : self.num_seen + chunk]
        last = self.case.greedy_ids[len(self.logits) - 1]
        return model(self.case.set_name).embed_tokens(torch.tensor([last]))


def start(case: Case) -> Run:
    """Embed a prompt, with its tiles' embeddings in their places."""
    net = model(case.set_name)
    hidden = net.embed_tokens(case.ids)
    if case.media_urls:
        hidden[case.ids == context_id(case.set_name)] = net.encode_tiles(case.tiles()).flatten(0, 1)
    return Run(case, hidden)


def run_packed(cases: Sequence[Case], chunk: int = 10_000) -> list[Tensor]:
    """Greedy logits [steps, V] of each case, all cases of one set in the same forwards, prompts in chunks."""
    runs = [start(case) for case in cases]
    net, attention = model(cases[0].set_name), DenseAttention()
    while active := [run for run in runs if not run.is_done]:
        rows = [run.next_hidden(chunk) for run in active]
        attention.layout = [(id(run), len(part)) for run, part in zip(active, rows, strict=True)]
        positions = [
            torch.arange(run.num_seen, run.num_seen + len(part)) for run, part in zip(active, rows, strict=True)
        ]
        rope_lens = [(p + 1).clamp(min=run.num_prompt) for run, p in zip(active, positions, strict=True)]
        out = net.forward(torch.cat(rows), Step(torch.cat(positions), torch.cat(rope_lens), attention))
        for run, part in zip(active, out.split([len(part) for part in rows]), strict=True):
            run.num_seen += len(part)
            if run.num_seen >= run.num_prompt:
                run.logits.append(net.compute_logits(part[-1:])[0])
    return [torch.stack(run.logits) for run in runs]
