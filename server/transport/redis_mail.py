"""What lies in a gateway's mailbox in Redis: one worker's messages, and who it is."""

from dataclasses import dataclass

from schemas import redis_names as names
from schemas.control import Claim, Goodbye, Heartbeat, Hello, Taken
from schemas.redis_link import Fields
from schemas.wire import ToGateway, WireError, decode_for_gateway


@dataclass(frozen=True, slots=True)
class Mail:
    """One entry; messages in order."""

    worker_id: str
    hello: Hello | None
    messages: tuple[ToGateway, ...]


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
    return Mail(worker_id, hello if isinstance(hello, Hello) else None, messages)
