"""Which address, URL and path may be reached for a client. Pure: nothing is resolved, opened or connected here.

One parser (yarl) reads a URL once; what was judged is what is dialled, nothing is parsed a second time.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

MAX_URL_CHARS = 8192

DEFAULT_PORTS = frozenset({80, 443, *range(8000, 9000)})

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Names that mean something only inside somebody's network.
_PRIVATE_SUFFIXES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "corp", "private")

# Not for clients' URLs although `is_global` says yes for some of them on some Python versions.
_DENIED_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4", "168.63.129.16/32",
        "::/96", "64:ff9b:1::/48", "fec0::/10", "ff00::/8", "5f00::/16", "3fff::/20", "100::/64", "100:0:0:1::/64",
        "2001::/23", "2002::/16",
    )
)  # fmt: skip
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Refused(Exception):
    """The URL may not be fetched; the text is for the client and says which rule it broke."""


@dataclass(frozen=True)
class MediaPolicy:
    """What the operator allows.

    `private_hosts`: (host, port or None): exact hosts exempt from the address rule, and with a port from the port rule.
    `file_root`: the folder that `file:` URLs may name files under; None: no `file:` URLs.
    `domains`: the only hosts that media may come from, exact (`a.example.com`) or all below one (`.example.com`);
    empty: any public host. Private hosts that are named count as well.
    """

    private_hosts: frozenset[tuple[str, int | None]] = frozenset()
    file_root: Path | None = None
    ports: frozenset[int] = field(default=DEFAULT_PORTS)
    domains: frozenset[str] = frozenset()

    def permits(self, host: str) -> bool:
        """Whether `host` is one of `domains`, if there are any."""
        parents = (host[at:] for at, char in enumerate(host) if char == ".")
        return not self.domains or host in self.domains or any(parent in self.domains for parent in parents)

    def exempts(self, host: str, port: int) -> bool:
        """Whether `host` may have a private address on this port."""
        return (host, None) in self.private_hosts or (host, port) in self.private_hosts


def parse_private_hosts(values: Iterable[str]) -> frozenset[tuple[str, int | None]]:
    """`HOST`, `HOST:PORT`, `[v6]` and `[v6]:PORT` as the operator wrote them. Raises ValueError naming a bad one."""
    hosts: set[tuple[str, int | None]] = set()
    for value in values:
        try:
            url = URL(f"http://{value}")
            host = (url.raw_host or "").lower()
            if not host or url.user is not None or url.raw_path not in ("", "/"):
                raise ValueError
        except ValueError as error:
            raise ValueError(f"not a HOST or HOST:PORT: {value!r}") from error
        hosts.add((host, url.explicit_port))
    return frozenset(hosts)


def parse_domains(values: Iterable[str]) -> frozenset[str]:
    """`HOST` and `.SUFFIX` as the operator wrote them. Raises ValueError naming a bad one."""
    domains = frozenset(value.lower() for value in values)
    for domain in domains:
        labels = domain.removeprefix(".").split(".")
        if not all(_LABEL.fullmatch(label) for label in labels) or len(domain) > 254:
            raise ValueError(f"not a HOST or .SUFFIX: {domain!r}")
    return domains


def judge_url(text: str, policy: MediaPolicy) -> URL:
    """The parsed http or https URL, its host being a public-looking name or a permitted literal address.

    A name's addresses are still to be judged, each by `is_public_address`. Raises Refused.
    """
    if len(text) > MAX_URL_CHARS:
        raise Refused(f"The URL is longer than {MAX_URL_CHARS} characters.")
    if any(char <= " " or char in "\\\x7f" for char in text):
        raise Refused("The URL contains a space, a backslash or a control character.")
    try:
        url = URL(text, encoded=text.isascii())  # as written: a signed query must not be requoted
        host, port = (url.raw_host or "").lower(), url.port
    except ValueError as error:
        raise Refused("The URL cannot be read.") from error
    if url.scheme not in ("http", "https"):
        raise Refused("The URL's scheme is not accepted: use https, http or data.")
    if url.raw_user is not None or url.raw_password is not None:
        raise Refused("The URL carries a user name or password; remove it.")
    # Whatever the parser made of the host (case aside) must be what the client wrote, directly after the slashes.
    written = text[len(url.scheme) + 3 :].lower()
    shown = f"[{host}]" if ":" in host else host
    if (
        not host
        or not written.startswith(shown)
        or written[len(shown) : len(shown) + 1] not in ("", ":", "/", "?", "#")
    ):
        raise Refused("The URL's host is not in its plain form.")
    if port is None or not (port in policy.ports or (host, port) in policy.private_hosts):
        raise Refused("The URL's port is not allowed.")
    if not policy.exempts(host, port):
        if not policy.permits(host):
            raise Refused("The URL's host is not one that this server takes media from.")
        _judge_host(host)
    return url


def _judge_host(host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _is_public_name(host):
            raise Refused("The URL's host is not allowed.") from None
        return
    if str(address) != host or not is_public_address(host):
        raise Refused("The URL's host is not allowed.")


def _is_public_name(host: str) -> bool:
    labels = host.split(".")
    return (
        len(host) <= 253
        and len(labels) > 1
        and all(_LABEL.fullmatch(label) for label in labels)
        and not _NUMERIC_LABEL.fullmatch(labels[-1])
        and not any(host == suffix or host.endswith("." + suffix) for suffix in _PRIVATE_SUFFIXES)
    )


def is_public_address(text: str) -> bool:
    """Whether an IP address may be dialled for a client; an address that hides an IPv4 one is judged by that."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or address.sixtofour is not None or address.teredo is not None:
            return False
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.is_multicast or any(address in network for network in _DENIED_NETWORKS):
        return False
    return address.is_global


def judge_file(url_text: str, policy: MediaPolicy) -> Path:
    """The real path of a `file:///...` URL, if it lies under the permitted root once every link is followed.

    One message for a missing file, a forbidden one and no root at all: the answer must not tell what exists.
    Raises Refused.
    """
    refusal = Refused("The file does not exist or is not under the permitted folder.")
    if policy.file_root is None or len(url_text) > MAX_URL_CHARS or "\x00" in url_text:
        raise refusal
    try:
        url = URL(url_text)
        if (
            url.raw_host
            or url.raw_query_string
            or url.raw_fragment
            or not url.path.startswith("/")
            or "\x00" in url.path
        ):
            raise refusal
        path = Path(url.path).resolve(strict=True)
        root = policy.file_root.resolve(strict=True)
    except (ValueError, OSError, RuntimeError):
        raise refusal from None
    if not path.is_relative_to(root):
        raise refusal
    return path
