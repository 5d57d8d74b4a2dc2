"""`glimpsed`, the one console script: reads the command line and starts what it names."""

import argparse
import asyncio
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine

from schemas.flags import ConfigError, Parser, add_flags, flag_of, load
from schemas.logs import configure_logging
from server.settings import (
    REPEATABLE_WORKER_FLAGS,
    SWITCH_WORKER_FLAGS,
    WORKER_FLAGS,
    BenchSettings,
    ChatSettings,
    GatewaySettings,
    ServeSettings,
    parse_models,
)
from server.supervise import WorkersFailed


def main(argv: list[str] | None = None, worker_module: str = "workers") -> int:
    """Run a command; its exit code: 0 stopped on request, 2 bad arguments or settings, 1 anything else.

    worker_module: what `python -m` starts as a worker.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["worker"]:
        os.execv(sys.executable, [sys.executable, "-m", worker_module, *argv[1:]])
    arguments = parser().parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments, worker_module)
    except ConfigError as error:
        print(f"glimpsed {arguments.command}: {error}", file=sys.stderr)
        return 2
    except WorkersFailed as error:
        return error.exit_code
    except OSError as error:
        print(f"glimpsed {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def worker_arguments(arguments: argparse.Namespace) -> list[str]:
    """The worker's flags among those given to `serve`, to be handed on."""
    handed_on = []
    for name in WORKER_FLAGS:
        value = getattr(arguments, name, None)
        if value is True:
            handed_on.append(flag_of(name))
        elif value is not None:
            handed_on += [f"{flag_of(name)}={item}" for item in (value if isinstance(value, list) else [value])]
    return handed_on


def parser() -> Parser:
    """All commands and their flags."""
    root = Parser(prog="glimpsed", description="Serve vision-language models over the OpenAI HTTP API.")
    root.add_argument("--version", action="version", version=f"glimpsed {_version()}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="a gateway and the workers of each MODEL on this machine")
    serve.add_argument("models", nargs="*", metavar="MODEL", help="[NAME=]folder or hub name; none: the demo model")
    add_flags(serve, ServeSettings)
    group = serve.add_argument_group("handed on to the workers (see `glimpsed worker --help`)")
    for name in WORKER_FLAGS:
        if name in ServeSettings.model_fields:
            continue
        if name in SWITCH_WORKER_FLAGS:
            group.add_argument(flag_of(name), dest=name, action="store_true", default=None)
        else:
            action = "append" if name in REPEATABLE_WORKER_FLAGS else "store"
            group.add_argument(flag_of(name), dest=name, action=action, default=None, metavar="VALUE")

    gateway = commands.add_parser("gateway", help="the HTTP side alone")
    add_flags(gateway, GatewaySettings)
    commands.add_parser("worker", help="one worker alone: glimpsed worker MODEL ...", add_help=False)
    models = commands.add_parser("models", help="known families and checkpoints, and what they need")
    models.add_argument("--json", action="store_true", help="as JSON, sizes in bytes")
    commands.add_parser("doctor", help="what this machine can run, and why not")

    chat = commands.add_parser("chat", help="talk to a server from the terminal")
    chat.add_argument("prompt", nargs="?", metavar="PROMPT", help="one question; none: a conversation")
    chat.add_argument("--image", action="append", default=[], metavar="FILE|URL", help="picture (repeatable)")
    chat.add_argument("--video", action="append", default=[], metavar="FILE|URL", help="clip (repeatable)")
    add_flags(chat, ChatSettings)

    bench = commands.add_parser("bench", help="load a server and measure what its clients see")
    bench.add_argument("--json", action="store_true", help="figures as JSON, times in seconds")
    add_flags(bench, BenchSettings)
    return root


def _serve(arguments: argparse.Namespace, worker_module: str) -> int:
    settings = load(ServeSettings, arguments)
    specs = parse_models(arguments.models)
    configure_logging(settings.log_level, settings.log_format, "gateway")
    from server.launch import run_serve

    return _run(run_serve(settings, specs, worker_arguments(arguments), worker_module))


def _gateway(arguments: argparse.Namespace, _: str) -> int:
    settings = load(GatewaySettings, arguments)
    configure_logging(settings.log_level, settings.log_format, "gateway")
    from server.launch import run_gateway

    return _run(run_gateway(settings))


def _chat(arguments: argparse.Namespace, _: str) -> int:
    from server.chat import run_chat

    return run_chat(load(ChatSettings, arguments), arguments.prompt, arguments.image, arguments.video)


def _bench(arguments: argparse.Namespace, _: str) -> int:
    from server.bench import run_bench

    return run_bench(load(BenchSettings, arguments), as_json=arguments.json)


def _run(life: Coroutine[None, None, None]) -> int:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life)
    return 0


def _models(arguments: argparse.Namespace, worker_module: str) -> int:
    command = [sys.executable, "-m", worker_module, "--list-families", *(["--json"] if arguments.json else [])]
    return subprocess.run(command, check=False).returncode


def _doctor(_: argparse.Namespace, worker_module: str) -> int:
    return subprocess.run([sys.executable, "-m", worker_module, "--doctor"], check=False).returncode


def _version() -> str:
    try:
        return importlib.metadata.version("glimpsed")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


_COMMANDS: dict[str, Callable[[argparse.Namespace, str], int]] = {
    "serve": _serve,
    "gateway": _gateway,
    "chat": _chat,
    "bench": _bench,
    "models": _models,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
