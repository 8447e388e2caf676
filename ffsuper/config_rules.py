"""What single settings must look like, for ``config``: each rule tells every mistake in a value."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ffsuper.errors import Mistake, SectionError

# The limits that the protocol's functions enforce on lanes and on a worker's capabilities.
MAX_LANE_BYTES = 64
MAX_CAPABILITIES = 256
MAX_CAPABILITIES_BYTES = 4096

MAX_SHOWN_CHARACTERS = 80


class Checks:
    """Collects the mistakes of one section while its ``with`` block lasts, then raises them together."""

    def __init__(self, settings: object, section: str) -> None:
        self._settings = settings
        self._section = section
        self._mistakes: list[Mistake] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if kind is None and self._mistakes:
            raise SectionError(self._section, self._mistakes)

    def between(self, key: str, low: float, high: float) -> None:
        """Refuse numbers outside ``low`` to ``high``, both allowed, and those that are none."""
        value = getattr(self._settings, key)
        if not value >= low:
            self.refuse(key, f"must be at least {low}, got {shown(value)}")
        elif value > high:
            self.refuse(key, f"must be at most {high}, got {shown(value)}")

    def all_of(self, key: str, texts: Iterable[str]) -> None:
        """Note mistakes in the whole value."""
        for text in texts:
            self.refuse(key, text)

    def items(self, key: str, mistakes: Iterable[tuple[str, str]]) -> None:
        """Note mistakes given as ``(item, text)``."""
        for item, text in mistakes:
            self.refuse(key, text, item)

    def related(self, key: str, others: Sequence[str], *, fits: bool, text: str) -> None:
        """Note that a value does not fit the ``others``, unless something is already wrong with one of them."""
        if not fits and not any(mistake.key in (key, *others) for mistake in self._mistakes):
            self._mistakes.append(Mistake(key, text, depends_on=tuple(others)))

    def refuse(self, key: str, text: str, item: str = "") -> None:
        """Note one mistake."""
        self._mistakes.append(Mistake(key, text, item))


def shown(value: object) -> str:
    """Return a value as it may stand in a message: printable, bounded, and scalars only."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 64:
            return "an integer of more than 64 bits"
        case int() | float():
            return repr(value)
        case str():
            return quoted(value if len(value) <= MAX_SHOWN_CHARACTERS else value[:MAX_SHOWN_CHARACTERS] + "...")
        case list():
            return "an array"
        case dict():
            return "a table"
    return "a date or time"


def quoted(text: str) -> str:
    """Return a text as a TOML string on one line."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else escaped(c) for c in text) + '"'


def escaped(character: str) -> str:
    """Return the TOML escape of a character."""
    if character in '"\\':
        return f"\\{character}"
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def bare(key: str) -> str:
    """Return a key as TOML writes it: bare where it may be."""
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else shown(key)


def has_invisible(text: str) -> bool:
    """Tell whether there is white space, a control character or half a character, in Unicode's terms."""
    return any(c.isspace() or unicodedata.category(c) in ("Cc", "Cs") for c in text)


def name_mistakes(name: str) -> Iterator[str]:
    """Check the name of a worker or an instance."""
    if not name:
        yield "must not be empty"
    if has_invisible(name):
        yield f"must not contain white space or control characters, got {shown(name)}"


def repeated(values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a mistake for each item that an earlier one equals."""
    for index, value in enumerate(values):
        if value in values[:index]:
            yield f"[{index}]", f"{shown(value)} is already in the list"


def lane_mistakes(lanes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Check the list of lanes. Source: protocol, 01 section 1.4."""
    if not lanes:
        yield "", "must name at least one lane"
    for index, lane in enumerate(lanes):
        if not lane:
            yield f"[{index}]", "must not be empty"
        elif any(not " " <= character <= "~" for character in lane):
            yield f"[{index}]", f"must be printable ASCII, got {shown(lane)}"
        elif len(lane) > MAX_LANE_BYTES:
            yield f"[{index}]", f"must be at most {MAX_LANE_BYTES} bytes long, got {len(lane)}: {shown(lane)}"
    yield from repeated(lanes)


def capability_mistakes(tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Check the list of capabilities. Source: protocol, 01 section 3 and 10 section 3.4."""
    for index, token in enumerate(tokens):
        if not token:
            yield f"[{index}]", "must not be empty"
        if "," in token:
            yield f"[{index}]", f"must not contain a comma, got {shown(token)}"
        if has_invisible(token):
            yield f"[{index}]", f"must not contain white space or control characters, got {shown(token)}"
    distinct = set(tokens)
    if len(distinct) > MAX_CAPABILITIES:
        yield "", f"must be at most {MAX_CAPABILITIES} different tokens, got {len(distinct)}"
    joined_bytes = len(",".join(distinct).encode(errors="surrogatepass"))
    if joined_bytes > MAX_CAPABILITIES_BYTES:
        longest = max(distinct, key=len)
        text = f"must be at most {MAX_CAPABILITIES_BYTES} bytes when joined by commas, got {joined_bytes}"
        yield "", f"{text}; the longest token is {shown(longest)}"


def module_mistakes(modules: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Check the names of modules that are to be imported."""
    for index, module in enumerate(modules):
        if module.endswith(".py") or "/" in module:
            yield f"[{index}]", f'must name a module such as "app.handlers", not a file, got {shown(module)}'
        elif not all(part.isidentifier() for part in module.split(".")):
            yield f"[{index}]", f'must be the dotted name of a module such as "app.handlers", got {shown(module)}'
    yield from repeated(modules)


def environment_mistakes(variables: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Check environment variables for a child; values stay out of the messages."""
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name:
            yield f".{bare(name)}", "must be a name that is not empty and has no equals sign or null character"
        if "\0" in value:
            yield f".{bare(name)}", "must not contain a null character"


def url_mistakes(url: str) -> Iterator[str]:
    """Check where the store is. Nothing of the URL but its scheme is repeated: there may be a password in it."""
    if url == "embedded":
        return
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster"):
        got = f', got "{scheme}://"' if separator and re.fullmatch("[A-Za-z0-9+.-]*", scheme) else ""
        yield f'must begin with redis://, rediss://, unix:// or redis+cluster://, or be "embedded"{got}'
        return
    try:
        parts = url_parts(url)
    except ValueError as error:
        yield str(error)
        return
    if "@" in parts.netloc:
        user, colon, _ = parts.netloc.rpartition("@")[0].partition(":")
        if colon:
            yield "must not contain a password: put it into a file and name that in password_file"
        if user or not colon:
            yield "must not contain a user name: put it into username"
    if parts.fragment or url.endswith("#"):
        yield 'must not contain "#"'
    if scheme == "unix":
        yield from socket_mistakes(parts)
    elif scheme.endswith("+cluster"):
        yield from cluster_mistakes(url)
    else:
        yield from server_mistakes(parts)


def url_parts(url: str) -> SplitResult:
    """Take a URL apart.

    Raises:
        ValueError: it cannot be one; the message says why and repeats nothing of it.
    """
    if has_invisible(url):
        raise ValueError("must not contain white space or control characters")
    try:
        return urlsplit(url)
    except ValueError:
        raise ValueError("is not a URL: look at its brackets and special characters") from None


def socket_mistakes(parts: SplitResult) -> Iterator[str]:
    """Check the path and the database number of a ``unix://`` URL."""
    if parts.netloc.rpartition("@")[2]:
        yield "must have an absolute path, as in unix:///run/redis/redis.sock, with three slashes"
    elif parts.path in ("", "/"):
        yield "names no socket; write it as in unix:///run/redis/redis.sock"
    if "\0" in unquote(parts.path):
        yield "must not contain a null character"
    for option, value in parse_qsl(parts.query, keep_blank_values=True):
        if option != "db":
            yield "must not have options after the question mark other than db"
        elif not re.fullmatch("[0-9]{1,9}", value):
            yield "must give db as a number"


def server_mistakes(parts: SplitResult) -> Iterator[str]:
    """Check host, port and database number of a ``redis://`` or ``rediss://`` URL."""
    yield from host_mistakes(parts, "redis://localhost:6379/0")
    if not re.fullmatch("/?|/[0-9]{1,9}", parts.path):
        yield "must end after the port or with a database number, as in redis://localhost:6379/0"
    if parts.query:
        yield "must not have options after a question mark"


def cluster_mistakes(url: str) -> Iterator[str]:
    """Check the hosts and ports of a ``redis+cluster://`` or ``rediss+cluster://`` URL."""
    rest = url.partition("://")[2].rpartition("@")[2]
    hosts, slash, database = rest.partition("/")
    if slash and database not in ("", "0"):
        yield "must end after the ports: a cluster has no database but 0"
    example = "redis+cluster://one:6379,two:6379"
    mistakes = [text for host in hosts.split(",") for text in host_mistakes(urlsplit(f"//{host}"), example)]
    yield from dict.fromkeys(mistakes)


def host_mistakes(parts: SplitResult, example: str) -> Iterator[str]:
    """Check host and port of a URL."""
    if not parts.hostname:
        yield f"names no host; write it as in {example}"
    elif not can_be_looked_up(unquote(parts.hostname)):
        yield f"names a host that cannot be one; write it as in {example}"
    try:
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        port_fits = False
    if not port_fits:
        yield "must have a port from 1 to 65535"


def can_be_looked_up(host: str) -> bool:
    """Tell whether a host may have this name or address: no part of it is empty or has more than 63 characters."""
    try:
        return bool(host.encode("idna")) and not has_invisible(host)
    except UnicodeError:
        return False


def origin_mistakes(origins: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Check the list of origins. Source: RFC 6454, section 6.2."""
    for index, origin in enumerate(origins):
        if origin != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin):
            yield (
                f"[{index}]",
                f"must be * or an origin like https://app.example.org, without a path, got {shown(origin)}",
            )
    yield from repeated(origins)


def http_url_mistakes(url: str) -> Iterator[str]:
    """Check where a server is. Nothing of the URL is repeated: there may be a password in it."""
    if not url.startswith(("http://", "https://")):
        yield "must begin with http:// or https://"
        return
    try:
        parts = url_parts(url)
    except ValueError as error:
        yield str(error)
        return
    if "@" in parts.netloc:
        yield "must not contain a user name or a password; a bearer token is put into a file, named in token_file"
    if "?" in url or "#" in url:
        yield "must not have anything after the path"
    yield from host_mistakes(parts, "https://flowfabric.example.org")


def listen_mistakes(listen: str) -> Iterator[str]:
    """Check an address and port to listen on."""
    host, _, port = listen.rpartition(":")
    is_port = bool(re.fullmatch("[0-9]{1,5}", port)) and int(port) <= 65535
    if not is_port or not can_be_looked_up(host.strip("[]")):
        yield f'must be an address and a port, as in "127.0.0.1:9090" or "[::1]:9090", got {shown(listen)}'


def is_loopback(listen: str) -> bool:
    """Tell whether only this machine reaches an address to listen on; a name other than localhost may be any."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def token_mistakes(token: str) -> Iterator[str]:
    """Check that a bearer token can stand in a header; nothing of it is repeated."""
    if not re.fullmatch("[!-~]+", token):
        yield "the token must be printable ASCII without spaces"
