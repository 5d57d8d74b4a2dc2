"""Which of a gateway's waiting jobs are offered to one worker first, in that worker's own line, and for how long.

All workers of a model read its common lines. One that has a job's beginning and is not much busier than the others is
offered it alone for a moment; what it has not taken by then, or when it is lost, goes to the common line.
"""

from collections import Counter
from collections.abc import Iterable

from schemas.jobs import Job
from server.transport.affinity import Affinity, AffinityCounts, beginnings
from server.transport.leases import Leases
from server.transport.redis_lines import WaitingJob

OFFER_S = 0.25
"""A worker with a seat takes a job within milliseconds."""


class Offers:
    """affinity_margin: see Affinity."""

    def __init__(self, affinity_margin: float, leases: Leases) -> None:
        self._affinity = Affinity(affinity_margin)
        self._leases = leases

    @property
    def counts(self) -> AffinityCounts:
        """How often jobs were taken by the worker that had their beginning."""
        return self._affinity.counts

    def offer(self, job: Job, waiting: WaitingJob, others: Iterable[WaitingJob]) -> None:
        """Note a job's beginnings, and the worker that has them, if it has a free seat. `others`: all that wait.

        Only for jobs of the normal class: a worker's own line comes behind the urgent ones and before the normal one.
        """
        hellos = [hello for hello in self._leases.hellos() if hello.card.name == job.model]
        if not self._affinity.is_on or job.n == 0 or len(hellos) < 2:
            return
        waiting.digests = beginnings(job)
        if job.priority or not waiting.digests:
            return
        offered = Counter(other.offered_to for other in others)
        loads = {
            hello.worker_id: (self._leases.num_at(hello.worker_id) + offered[hello.worker_id]) / hello.seats
            for hello in hellos
            if hello.seats > 0 and not self._leases.is_draining(hello.worker_id)
        }
        worker_id = self._affinity.choose(waiting.digests, loads)
        if worker_id is not None and loads[worker_id] < 1:
            waiting.offered_to = worker_id

    def saw_one_taken(self, digests: tuple[bytes, ...], worker_id: str) -> None:
        """This worker took a job with these beginnings."""
        self._affinity.saw(digests, worker_id)

    def overdue(self, waiting: Iterable[WaitingJob], now: float) -> list[WaitingJob]:
        """Those that lie in a worker's own line and have been there long enough, or whose worker is gone."""
        return [
            job
            for job in waiting
            if job.offered_to is not None
            and job.pointer is not None
            and (now - job.since >= OFFER_S or not self._leases.is_known(job.offered_to))
        ]
