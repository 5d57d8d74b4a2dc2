"""What workers write into a gateway's mailbox in Redis, one entry at a time, and the little that gateways write."""

from collections.abc import Iterable
from dataclasses import dataclass

from redis.asyncio import Redis

from schemas import redis_names as names
from schemas.control import Cancel, Claim, Goodbye, Heartbeat, Hello, Taken
from schemas.redis_link import Fields, put
from schemas.wire import ToGateway, WireError, decode_for_gateway, encode


@dataclass(frozen=True, slots=True)
class Mail:
    """One entry; messages in order. has_ended: the worker's process is known to have ended, it says nothing more."""

    worker_id: str
    hello: Hello | None
    messages: tuple[ToGateway, ...]
    has_ended: bool = False


def read_mail(fields: Fields) -> Mail:
    """An entry's fields understood. Raises WireError."""
    try:
        worker_id = fields[names.WORKER].decode("ascii")
        hello = decode_for_gateway(fields[names.HELLO]) if names.HELLO in fields else None
    except (KeyError, UnicodeDecodeError) as error:
        raise WireError(f"not a worker's entry: {error}") from error
    messages = tuple(decode_for_gateway(data) for field, data in fields.items() if field.isdigit())
    for message in (hello, *messages):
        if isinstance(message, Hello | Claim | Taken | Heartbeat | Goodbye) and message.worker_id != worker_id:
            raise WireError("a worker speaks in another's name")
    return Mail(worker_id, hello if isinstance(hello, Hello) else None, messages, names.ENDED in fields)


async def send_cancels(client: Redis, cancels: Iterable[tuple[str, str, int]]) -> None:
    """Have workers stop jobs: of each its worker, its id and the latest epoch that is meant."""
    async with client.pipeline(transaction=False) as pipe:
        for worker_id, job_id, epoch in cancels:
            order = {names.ORDER: encode(Cancel(job_id=job_id)), names.EPOCH: b"%d" % epoch}
            put(pipe, names.worker_mailbox(worker_id), order)
        await pipe.execute()
