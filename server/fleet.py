"""Which models there are, and whether a worker of each is ready."""

from collections.abc import Mapping

from schemas.control import ModelCard
from schemas.errors import ErrorCode, RequestError, Unavailable
from schemas.openai.strict import printable
from server.transport.affinity import AffinityCounts
from server.transport.base import JobQueue, WorkerInfo

DRAINING = "draining"
NO_WORKER_RETRY_S = 5.0


class Fleet:
    """The workers as the queue knows them, and the models that are expected or were seen once.

    A model whose last worker died stays known: its requests wait for the next worker instead of failing.
    """

    def __init__(self, queue: JobQueue, expected_models: tuple[str, ...] = ()) -> None:
        self._queue = queue
        self._expected = expected_models
        self._cards: dict[str, ModelCard] = {}
        self.is_draining = False
        """Set once the server is about to leave: no new requests."""

    def cards(self) -> dict[str, ModelCard]:
        """Every model that a worker has announced, by name."""
        self._cards |= {worker.card.name: worker.card for worker in self._queue.workers()}
        return self._cards

    def workers(self) -> list[WorkerInfo]:
        """Workers that live now."""
        return self._queue.workers()

    def depth(self, model: str) -> int:
        """Jobs that wait for a worker of this model."""
        return self._queue.depth(model)

    def affinity(self) -> AffinityCounts:
        """How often jobs went to the worker that had their beginning."""
        return self._queue.affinity()

    def lost_workers(self) -> Mapping[tuple[str, str], int]:
        """How many workers were lost, by model and cause."""
        return self._queue.lost_workers()

    def models(self) -> list[str]:
        """Names of the models that are expected or were seen."""
        return list(dict.fromkeys((*self._expected, *self.cards())))

    def card(self, model: str) -> ModelCard | None:
        """What is known of a model; None while its first worker has yet to come. Raises RequestError if unknown, and
        Unavailable where nothing is known of any model: a gateway that has just begun cannot tell."""
        known = self.cards().get(model)
        if known is None and model not in self._expected:
            if not self.models():
                raise Unavailable("No worker has come yet.", NO_WORKER_RETRY_S)
            message = f"The model '{printable(model)}' does not exist."
            raise RequestError(ErrorCode.MODEL_NOT_FOUND, message, "model")
        return known

    def num_ready(self) -> dict[str, int]:
        """Model name -> how many of its workers take jobs now."""
        counts = dict.fromkeys(self.models(), 0)
        for worker in self._queue.workers():
            counts[worker.card.name] += worker.state != DRAINING
        return counts

    def is_ready(self) -> bool:
        """Whether each expected model has a ready worker; where none is expected, whether there is a worker at all."""
        counts = self.num_ready()
        wanted = self._expected or [model for model, count in counts.items() if count]
        return not self.is_draining and bool(wanted) and all(counts[model] for model in wanted)
