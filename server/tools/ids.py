"""Ids of calls."""

import hashlib

from schemas.jobs import Job

ID_CHARS = 24


def call_id(job: Job, choice: int, index: int) -> str:
    """The id of call `index` of a choice: as hard to guess as the job's own, and the same however often it is asked."""
    digest = hashlib.sha256(f"{job.job_id}/{choice}/{index}".encode()).hexdigest()
    return f"call_{digest[:ID_CHARS]}"
