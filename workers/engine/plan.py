"""What one step computes: the plain record that the scheduler hands to the runner. No tensors, no policy."""

from dataclasses import dataclass

from workers.engine.sequence import MediaInput, Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, start + length) of a sequence go through the model.

    samples: the chunk reaches the sequence's last token, so the logits there give the next one.
    """

    seq: Sequence
    start: int
    length: int
    samples: bool

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. The runner first drops embeddings, then runs the tower, then the packed batch.

    chunks: at most one per sequence; those of a single token come first.
    encode: media that the vision tower must run now, each key once.
    encode_beside: media that it shall begin now, while steps go on; never together with `encode`.
    prefill_beside: a chunk that shall be computed from now on, while steps go on; never together with `encode_beside`.
    drop_embeddings: keys whose embeddings are to be let go before anything is encoded (a key may be in `encode` too;
        one that the runner does not hold is ignored).
    preempted: ids of the sequences that lost their pages in this step.
    """

    chunks: tuple[Chunk, ...]
    encode: tuple[MediaInput, ...] = ()
    encode_beside: tuple[MediaInput, ...] = ()
    prefill_beside: Chunk | None = None
    drop_embeddings: tuple[bytes, ...] = ()
    preempted: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(chunk.length for chunk in self.chunks)

    @property
    def sampling_chunks(self) -> tuple[Chunk, ...]:
        """The chunks that sample, in the order of `chunks`."""
        return tuple(chunk for chunk in self.chunks if chunk.samples)
