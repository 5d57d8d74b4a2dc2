"""The one error tree. Everything that can go wrong for a request is a `GlimpsedError` with an `ErrorCode`.

    GlimpsedError
    ├── RequestError     the client asked for something that cannot be done (bad field, too long, unknown model)
    ├── MediaError       a picture or clip could not be fetched, decoded or accepted
    ├── Overloaded       the queue is full; carries when to come back
    ├── Unavailable      no worker can take the job now
    ├── DeadlineExceeded the request's time is over
    └── EngineError      our fault: the worker or engine failed

No HTTP here: `server.errors` maps codes to statuses in one table.
"""

from enum import StrEnum


class ErrorCode(StrEnum):
    """What a client's program may switch on; the wire's `error.code`."""

    INVALID_REQUEST = "invalid_request"
    INVALID_JSON = "invalid_json"
    INVALID_TYPE = "invalid_type"
    INVALID_VALUE = "invalid_value"
    MISSING_PARAMETER = "missing_required_parameter"
    UNKNOWN_PARAMETER = "unknown_parameter"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    PREVIOUS_RESPONSE_NOT_FOUND = "previous_response_not_found"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    REQUEST_TOO_LARGE = "request_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    URI_TOO_LONG = "uri_too_long"
    HEADERS_TOO_LARGE = "headers_too_large"
    INVALID_API_KEY = "invalid_api_key"
    FORBIDDEN = "forbidden"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    QUEUE_FULL = "queue_full"

    TOO_MANY_IMAGES = "too_many_images"
    INVALID_IMAGE_URL = "invalid_image_url"
    FAILED_TO_DOWNLOAD_IMAGE = "failed_to_download_image"
    INVALID_BASE64_IMAGE = "invalid_base64_image"
    EMPTY_IMAGE_FILE = "empty_image_file"
    INVALID_IMAGE_FORMAT = "invalid_image_format"
    UNSUPPORTED_IMAGE_MEDIA_TYPE = "unsupported_image_media_type"
    IMAGE_PARSE_ERROR = "image_parse_error"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    IMAGE_FILE_TOO_LARGE = "image_file_too_large"

    TOO_MANY_VIDEOS = "too_many_videos"
    INVALID_VIDEO_URL = "invalid_video_url"
    FAILED_TO_DOWNLOAD_VIDEO = "failed_to_download_video"
    INVALID_BASE64_VIDEO = "invalid_base64_video"
    EMPTY_VIDEO_FILE = "empty_video_file"
    INVALID_VIDEO_FORMAT = "invalid_video_format"
    UNSUPPORTED_VIDEO_MEDIA_TYPE = "unsupported_video_media_type"
    VIDEO_PARSE_ERROR = "video_parse_error"
    VIDEO_TOO_LARGE = "video_too_large"
    VIDEO_TOO_SMALL = "video_too_small"
    VIDEO_FILE_TOO_LARGE = "video_file_too_large"

    MEDIA_CHANGED = "media_changed"
    UNAVAILABLE = "service_unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    ENGINE_ERROR = "engine_error"
    INTERNAL_ERROR = "internal_error"


class GlimpsedError(Exception):
    """A failure with a code, a sentence for the client and, where there is one, the field it is about.

    `message` must be fit for a client: no paths, addresses, tracebacks or library internals.
    `param` is a dotted path into the request body, such as `messages.2.content.1.image_url.url`.
    """

    def __init__(self, code: ErrorCode, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class RequestError(GlimpsedError):
    """The client's request cannot be served as it stands."""


class MediaError(GlimpsedError):
    """A picture or clip could not be fetched, decoded or accepted."""


class TooMuch(StrEnum):
    """What there is too much of; for metrics, finer than the code that a client is told."""

    QUEUE = "queue_full"
    QUEUE_TOKENS = "queue_tokens"
    QUEUE_TIME = "queue_time"
    IN_FLIGHT = "in_flight"
    BYTES_IN_FLIGHT = "bytes_in_flight"
    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    CONCURRENCY = "concurrency"
    BATCHES = "batches"


_OF_KEY = {TooMuch.REQUESTS_PER_MINUTE, TooMuch.TOKENS_PER_MINUTE, TooMuch.CONCURRENCY, TooMuch.BATCHES}
"""What one key may have only so much of; the rest is bounded for all clients together."""


class Overloaded(GlimpsedError):
    """Too much is waiting already; `retry_after_s` is the server's estimate of when there is room again."""

    def __init__(self, message: str, retry_after_s: float, what: TooMuch = TooMuch.QUEUE) -> None:
        super().__init__(ErrorCode.RATE_LIMIT_EXCEEDED if what in _OF_KEY else ErrorCode.QUEUE_FULL, message)
        self.retry_after_s = retry_after_s
        self.what = what


class Unavailable(GlimpsedError):
    """No worker can take the job now: starting, draining or lost."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(GlimpsedError):
    """The request's time is over; what was generated so far stays valid."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.DEADLINE_EXCEEDED, message)


class EngineError(GlimpsedError):
    """The worker failed on a request that was fine: our fault, a 5xx."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.ENGINE_ERROR, message)
