"""Ids that sort by the time at which they were made and that nobody guesses."""

import secrets

RANDOM_BYTES = 14


def new_id(prefix: str, time_s: float) -> str:
    """`prefix`, twelve hex digits of milliseconds, and 112 random bits."""
    return f"{prefix}{int(time_s * 1000):012x}{secrets.token_hex(RANDOM_BYTES)}"
