from pathlib import Path

import pytest

from workers.media.guard import (
    MediaPolicy,
    Refused,
    is_public_address,
    judge_file,
    judge_url,
    parse_domains,
    parse_private_hosts,
)

DEFAULT = MediaPolicy()


@pytest.mark.parametrize(
    "url",
    [
        "https://good.example.com/a.png",
        "http://good.example.com:8080/a.png?sig=%2Fa%2B&x=a+b",
        "HTTP://GOOD.example.com/a.png",
        "https://good.example.com/Köln.jpg",
        "http://8.8.8.8/a.png",
        "http://[2606:4700::1111]/a.png",
        "http://good.example.com#@127.0.0.1",
        "http://good.example.com?@127.0.0.1",
    ],
)
def test_public_hosts_are_accepted(url: str) -> None:
    assert judge_url(url, DEFAULT).host in ("good.example.com", "8.8.8.8", "2606:4700::1111")


def test_a_signed_query_is_kept_as_written() -> None:
    assert str(judge_url("https://a.example.com/x?sig=%2fAb%2B==&y=a+b", DEFAULT)).endswith("?sig=%2fAb%2B==&y=a+b")


@pytest.mark.parametrize(
    "url",
    [
        "", "/etc/passwd", "../x", "file:///etc/passwd", "ftp://a.example.com/", "gopher://a.example.com/",
        "jar:http://a.example.com!/", "unix:///run/x", "http+unix://x/", "concat:http://a.example.com/",
        "hls+http://a.example.com/", "//127.0.0.1/", "http:127.0.0.1", "http:///127.0.0.1", "http://",
        "http://127.0.0.1/", "http://0.0.0.0/", "http://10.1.2.3/", "http://172.16.0.1/", "http://192.168.1.1/",
        "http://100.64.0.1/", "http://169.254.169.254/", "http://168.63.129.16/", "http://224.0.0.1/",
        "http://255.255.255.255/", "http://[fd00:ec2::254]/", "http://metadata.google.internal/",
        "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://127.0.0.1./",
        "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/", "http://[fe80::1%25eth0]/", "http://[fe80::1]/", "http://[v1.x]/",
        "http://[2606:4700:0::1111]/", "http://%31%32%37.0.0.1/", "http://１２７.0.0.1/", "http://ⓛocalhost/",
        "http://good.example.com\\@127.0.0.1/", "http://127.0.0.1\\@good.example.com/",
        "http://user@good.example.com/", "http://user:secret@good.example.com/", "http://@good.example.com/",
        "http://good.example.com/\r\nX: y", "http://good.example.com/\ta", "http://good.example.com/\x00",
        "\x01http://good.example.com/", "http://good .example.com/", " http://good.example.com/",
        "http://localhost/", "http://localhost./", "http://printer/", "http://nas.local/", "http://x.localhost/",
        "http://good.example.com:22/", "http://good.example.com:25/", "http://good.example.com:6379/",
        "http://good.example.com:0/", "http://good.example.com:99999/", "http://good.example.com:80:90/",
        "http://good.example.com:%38%30/", "http://" + "a" * 300 + ".com/", "http://xn--\x80.com/",
        "http://good.example.com/" + "a" * 8192, "http://-a.example.com/", "http://a..example.com/",
        "http://bücher.example/",
    ],
)  # fmt: skip
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(Refused) as refused:
        judge_url(url, DEFAULT)
    assert "127" not in str(refused.value) and "passwd" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.0.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "169.254.169.254",
        "168.63.129.16", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "2001:db8::1",
        "2001:10::1", "3fff::1", "5f00::1", "100::1", "100:0:0:1::1", "fe80::1", "fe80::1%eth0", "fec0::1",
        "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1", "", "localhost", "1.2.3",
    ],
)  # fmt: skip
def test_addresses_that_are_not_for_clients(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_pass(address: str) -> None:
    assert is_public_address(address)


def test_a_private_host_is_exempt_exactly_as_named() -> None:
    policy = MediaPolicy(private_hosts=parse_private_hosts(["127.0.0.1:9000", "nas.local", "[::1]:81"]))
    assert judge_url("http://127.0.0.1:9000/x", policy).port == 9000
    assert judge_url("http://NAS.local:8001/x", policy).host == "nas.local"
    assert judge_url("http://[::1]:81/x", policy).port == 81
    for url in (
        "http://127.0.0.1/", "http://127.0.0.1:9001/", "http://127.0.0.2:9000/", "http://nas.local:9000/",
        "http://x.nas.local/", "http://127.0.0.1.:9000/", "http://[::1]/",
    ):  # fmt: skip
        with pytest.raises(Refused):
            judge_url(url, policy)


@pytest.mark.parametrize("value", ["", "a:b:c", "http://x", "user@host", "host/path", "host:99999"])
def test_a_private_host_that_is_none_is_named(value: str) -> None:
    with pytest.raises(ValueError, match="not a HOST"):
        parse_private_hosts([value])


def test_files_are_judged_by_where_they_really_are(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "deep").mkdir(parents=True)
    outside.mkdir()
    (root / "deep" / "a b.png").write_bytes(b"x")
    (outside / "secret.png").write_bytes(b"x")
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "loop").symlink_to(root / "loop")
    policy = MediaPolicy(file_root=root)

    assert judge_file(f"file://{root}/deep/a%20b.png", policy) == root / "deep" / "a b.png"
    messages = set()
    for path in (
        outside / "secret.png", root / "link.png", root / "missing.png", root / "loop", "/etc/passwd",
        f"{root}/../outside/secret.png", f"{root}/%2e%2e/outside/secret.png", f"{root}/deep/a%00.png",
        tmp_path / "root2",
    ):  # fmt: skip
        with pytest.raises(Refused) as refused:
            judge_file(f"file://{path}", policy)
        messages.add(str(refused.value))
    for url in (f"file://localhost{root}/deep/a%20b.png", f"file:{root}x", "file:relative.png", "file://"):
        with pytest.raises(Refused):
            judge_file(url, policy)
    assert len(messages) == 1


def test_without_a_root_no_file_is_served(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(Refused):
        judge_file(f"file://{tmp_path}/a.png", DEFAULT)


def test_named_domains_are_the_only_ones() -> None:
    policy = MediaPolicy(
        private_hosts=parse_private_hosts(["10.0.0.1:9000"]),
        domains=parse_domains([".Example.com", "a.org", "8.8.8.8"]),
    )
    for url in ("https://x.example.com/", "https://x.y.example.com/", "http://A.org/", "http://8.8.8.8/"):
        assert judge_url(url, policy).host is not None
    assert judge_url("http://10.0.0.1:9000/", policy).port == 9000
    for url in (
        "https://example.com/", "https://badexample.com/", "https://x.a.org/", "https://example.com.evil.org/",
        "http://8.8.4.4/", "http://127.0.0.1/", "https://x.example.com.", "http://[2606:4700::1111]/",
    ):  # fmt: skip
        with pytest.raises(Refused):
            judge_url(url, policy)


def test_a_named_domain_does_not_lift_the_rule_about_addresses() -> None:
    policy = MediaPolicy(domains=parse_domains(["127.0.0.1", "localhost", ".internal"]))
    for url in ("http://127.0.0.1/", "http://localhost/", "http://x.internal/"):
        with pytest.raises(Refused):
            judge_url(url, policy)


@pytest.mark.parametrize("value", ["", ".", "a b", "http://x", "x/y", "*.example.com", "a..b", "a:80"])
def test_a_domain_that_is_none_is_named(value: str) -> None:
    with pytest.raises(ValueError, match="not a HOST"):
        parse_domains([value])
