"""`python -m workers.grammar.check_child`: tries grammars out, so that one too hard costs this process and no other.

Reads a vocabulary, then grammars, from stdin; answers each on stdout. Ends with the pipe.
"""

import resource
import sys
import threading
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from schemas.sampling import Grammar
from workers.grammar.compiling import GrammarError, open_matcher, probe, translate
from workers.grammar.protocol import Verdict, pack, read
from workers.grammar.vocabulary import Vocabulary, build_tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

MEMORY_BYTES = 512 << 20
CPU_S = 1
"""Of one grammar; up to a second more, as the kernel counts whole seconds of the process."""
_STACK_BYTES = 4 << 20
"""Half of what a worker's threads have: what recurses too deep does it here."""


def main() -> None:
    """Serve until the pipe closes."""
    threading.stack_size(_STACK_BYTES)
    server = threading.Thread(target=_serve, args=(sys.stdin.buffer, sys.stdout.buffer))
    server.start()
    server.join()


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    payload = read(source)
    if payload is None:
        return
    vocabulary = msgspec.msgpack.decode(payload, type=Vocabulary)
    tokenizer = build_tokenizer(vocabulary)
    _bound_memory()
    _answer(sink, Verdict())
    while (payload := read(source)) is not None:
        _bound_cpu()
        _answer(sink, _judge(tokenizer, vocabulary.eos_ids, msgspec.msgpack.decode(payload, type=Grammar)))


def _judge(tokenizer: "LLTokenizer", eos_ids: list[int], grammar: Grammar) -> Verdict:
    try:
        translated = translate(grammar)
        probe(open_matcher(tokenizer, translated), eos_ids)
    except GrammarError as error:
        return Verdict(reason=str(error))
    except MemoryError:
        return Verdict(reason="it is too complex")
    return Verdict(translated=translated)


def _answer(sink: BinaryIO, verdict: Verdict) -> None:
    sink.write(pack(verdict))
    sink.flush()


def _bound_memory() -> None:
    """So much more than now."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        size_bytes = int(statm.read().split()[0]) * resource.getpagesize()
    _bound(resource.RLIMIT_AS, size_bytes + MEMORY_BYTES)
    _bound(resource.RLIMIT_CORE, 0)


def _bound_cpu() -> None:
    """So much more than now: the kernel ends the process that takes longer over one grammar."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _bound(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + CPU_S)


def _bound(which: int, limit: int) -> None:
    """Set the soft limit, within the hard one of this machine."""
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
