r"""Who a client is by its certificate: a principal, from the subject's name or from a subject alternative name.

A certificate is what ``ssl.SSLObject.getpeercert()`` returns, of a chain that was verified. The subject is written as
Java's X500Principal.getName does (RFC 2253: the most specific part first), and rules are read as Kafka reads its
``ssl.principal.mapping.rules`` (KIP-371, KIP-471), so that principals, and the ACLs about them, are the same whether
a client comes to kproxy or to a broker::

    >>> alice = {"subject": ((("countryName", "DE"),), (("organizationName", "org"),), (("commonName", "Alice"),))}
    >>> distinguished_name(alice)
    'CN=Alice,O=org,C=DE'
    >>> CertificatePrincipals("subject", ["RULE:^CN=(.*?),.*$/$1/L", "DEFAULT"]).principal(alice)
    'User:alice'

Rules are the operator's own regular expressions; the texts they meet are a client's, and bounded. Where Kafka is
content with what it then fails on at every login (a ``$2`` that no group stands behind), a rule is refused here.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal, NamedTuple

from kproxy.core.acceptor import ANONYMOUS
from kproxy.errors import KproxyError

Certificate = Mapping[str, Any]
"""What getpeercert() returns: "subject" and "subjectAltName" are looked at."""

Source = Literal["subject", "san_dns", "san_email", "san_uri"]

NAME_CHARS_MAX = 1024
"""RFC 5280's upper bounds (64 for a common name, 128 for a locality) leave a usual subject below 500 characters."""

SANS_MAX = 100
"""So many alternative names are looked at; public authorities sign no more (Let's Encrypt: 100)."""

RULES_MAX = 100

_SAN_KINDS = {"san_dns": "DNS", "san_email": "email", "san_uri": "URI"}

# RFC 2253's own keywords, which Java writes (sun.security.x509.AVAKeyword); OpenSSL's long names on the left.
_KEYWORDS = {
    "commonName": "CN",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
# What else stands in subjects (X.520, PKCS #9, the CA/Browser Forum); Java writes these by number.
_NUMBERS = {
    "surname": "2.5.4.4",
    "serialNumber": "2.5.4.5",
    "title": "2.5.4.12",
    "description": "2.5.4.13",
    "businessCategory": "2.5.4.15",
    "postalCode": "2.5.4.17",
    "postOfficeBox": "2.5.4.18",
    "telephoneNumber": "2.5.4.20",
    "name": "2.5.4.41",
    "givenName": "2.5.4.42",
    "initials": "2.5.4.43",
    "generationQualifier": "2.5.4.44",
    "dnQualifier": "2.5.4.46",
    "pseudonym": "2.5.4.65",
    "role": "2.5.4.72",
    "organizationIdentifier": "2.5.4.97",
    "emailAddress": "1.2.840.113549.1.9.1",
    "unstructuredName": "1.2.840.113549.1.9.2",
    "jurisdictionLocalityName": "1.3.6.1.4.1.311.60.2.1.1",
    "jurisdictionStateOrProvinceName": "1.3.6.1.4.1.311.60.2.1.2",
    "jurisdictionCountryName": "1.3.6.1.4.1.311.60.2.1.3",
}
# The string types that the standards ask for; all else is a UTF8String in today's certificates (RFC 5280, 4.1.2.4).
_UTF8_STRING, _PRINTABLE_STRING, _IA5_STRING = 0x0C, 0x13, 0x16
_STRING_TYPES = {
    "serialNumber": _PRINTABLE_STRING,
    "telephoneNumber": _PRINTABLE_STRING,
    "dnQualifier": _PRINTABLE_STRING,
    "jurisdictionCountryName": _PRINTABLE_STRING,
    "emailAddress": _IA5_STRING,
    "unstructuredName": _IA5_STRING,
}
_ESCAPED = re.compile(r'[,=+<>#;"\\]|^ +| +$')
# They are in no honest name, and would make more than one line of it in a log or an ACL's listing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TEXT = r"(?:\\.|[^\\/])*"
_RULE = re.compile(
    rf"\s*(?:(?P<default>DEFAULT)|RULE:(?P<pattern>{_TEXT})/(?P<replacement>{_TEXT})/(?P<case>[LU]?)|)\s*(?:,|$)"
)
_REPLACED = re.compile(
    r"\\(?P<literal>.)|\$\{(?P<name>[A-Za-z][A-Za-z0-9]*)\}|\$(?P<digits>[0-9]+)|(?P<plain>[^\\$]+)|\$"
)
_JAVA_GROUP = re.compile(r"\\k<([A-Za-z][A-Za-z0-9]*)>|\\.|\(\?<([A-Za-z][A-Za-z0-9]*)>", re.DOTALL)


class PrincipalError(KproxyError):
    """A certificate that makes nobody: no rule applies to it, or it has no name of the kind that is asked for."""


def distinguished_name(certificate: Certificate) -> str:
    """Write a certificate's subject as Java and Kafka do, as in ``CN=alice,OU=team,O=org,C=DE``; it may be empty.

    A part of which RFC 2253 knows no keyword is written as its number and ``#`` with the DER of its value, as Java
    does; the string's type is the one its standard asks for, else UTF8String.

    Raises:
        PrincipalError: the name is longer than 1,024 characters or holds control characters.
    """
    relative: list[tuple[tuple[str, str], ...]] = list(certificate.get("subject", ()))
    if sum(len(value) for part in relative for _, value in part) > NAME_CHARS_MAX:
        raise PrincipalError(f"the certificate's subject is longer than {NAME_CHARS_MAX} characters")
    # A set's members keep the order that they have in the certificate.
    name = ",".join("+".join(_attribute(*pair) for pair in part) for part in reversed(relative))
    if _CONTROL.search(name):
        raise PrincipalError("the certificate's subject holds control characters")
    return name


def _attribute(kind: str, value: str) -> str:
    number = _NUMBERS.get(kind, kind)
    if number[0].isdigit() and not _CONTROL.search(value):
        raw = value.encode()
        return (
            f"{number}=#{bytes([_STRING_TYPES.get(kind, _UTF8_STRING)]).hex()}{_der_length(len(raw)).hex()}{raw.hex()}"
        )
    escaped = _ESCAPED.sub(lambda match: "".join(f"\\{character}" for character in match[0]), value)
    return f"{_KEYWORDS.get(kind, kind)}={escaped}"


def _der_length(count: int) -> bytes:
    if count < 128:
        return bytes([count])
    raw = count.to_bytes((count.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(raw)]) + raw


class _Rule(NamedTuple):
    """One rule; without a pattern it is DEFAULT."""

    pattern: re.Pattern[str] | None
    replacement: tuple[str | int, ...]
    """Literal texts, and groups by their numbers."""
    change_case: Callable[[str], str]

    def apply(self, name: str) -> str | None:
        """Return the name that the rule makes of this one; None: it does not apply."""
        if self.pattern is None:
            return name
        if not self.pattern.fullmatch(name):
            return None
        # The whole must match, then each find is replaced, as Java's replaceAll does it: ".*" finds an empty end as
        # well, and after an empty find the search goes on one character later, where Python's would stay.
        result, done, at = [], 0, 0
        while at <= len(name) and (found := self.pattern.search(name, at)):
            result += [name[done : found.start()], self._expand(found)]
            done = found.end()
            at = done + (found.start() == done)
        return self.change_case("".join((*result, name[done:])))

    def _expand(self, match: re.Match[str]) -> str:
        return "".join(part if isinstance(part, str) else match[part] or "" for part in self.replacement)


class PrincipalRules:
    r"""Kafka's ``ssl.principal.mapping.rules``: the first rule that applies makes the name.

    A rule is ``DEFAULT``, the name as it is, or ``RULE:pattern/replacement/[LU]``: the pattern must match the whole
    name, ``$1`` is its first group, and L or U makes small or capital letters of the result; ``\/`` is a slash. An
    entry may hold several rules with commas between them, as Kafka's own configuration has them.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        """Read the rules; none at all means DEFAULT.

        Raises:
            ValueError: a rule that cannot be read, and what to write instead.
        """
        self._rules = [rule for entry in entries for rule in _rules(entry)] or [_Rule(None, (), str)]
        if len(self._rules) > RULES_MAX:
            raise ValueError(f"are more than {RULES_MAX} rules; a pattern may serve many names")

    def name(self, name: str) -> str | None:
        """Return what the first rule that applies makes of a name; None: no rule applies."""
        for rule in self._rules:
            result = rule.apply(name)
            if result is not None:
                return result
        return None


def _rules(entry: str) -> Iterator[_Rule]:
    at = 0
    while at < len(entry):
        match = _RULE.match(entry, at)
        if not match:
            raise ValueError(
                f"{_shown(entry[at:])} is not a rule; write DEFAULT, or RULE:pattern/replacement/ with L or U behind"
                r" the last slash for small or capital letters; a slash within is written \/"
            )
        at = match.end()
        if match["default"]:
            yield _Rule(None, (), str)
        elif match["pattern"] is not None:
            pattern = _pattern(match["pattern"])
            change_case = {"L": str.lower, "U": str.upper}.get(match["case"], str)
            yield _Rule(pattern, tuple(_replacement(match["replacement"], pattern)), change_case)


def _pattern(text: str) -> re.Pattern[str]:
    """Read a regular expression of Java's; its named groups are written differently, its classes are ASCII's."""

    def translated(match: re.Match[str]) -> str:
        back, group = match.groups()
        return f"(?P={back})" if back else f"(?P<{group}>" if group else match[0]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Java's sets within sets, which would mean something else here
            return re.compile(_JAVA_GROUP.sub(translated, text), re.ASCII)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise ValueError(f"{_shown(text)} is not a regular expression that kproxy can read: {error}") from None


def _replacement(text: str, pattern: re.Pattern[str]) -> Iterator[str | int]:
    """Split a replacement into literal texts and groups, as Kafka and Java's appendReplacement understand it."""
    for match in _REPLACED.finditer(text):
        if match["plain"] or match["literal"]:
            yield match["plain"] or match["literal"]
        elif match["name"]:
            if match["name"] not in pattern.groupindex:
                raise ValueError(f"{_shown(match[0])} names no group of the rule's pattern")
            yield pattern.groupindex[match["name"]]
        elif match["digits"]:
            yield from _numbered(match["digits"], pattern.groups)
        else:
            raise ValueError(rf"a $ in {_shown(text)} has no number behind it; write \$ for the character itself")


def _numbered(digits: str, groups: int) -> Iterator[str | int]:
    """Read ``$123``: as many digits as make a group that exists; where none do, the text stands for itself."""
    if int(digits[0]) > groups:
        if groups == 0:
            raise ValueError(f"${digits[0]} stands for a group, and the rule's pattern has none; put one in ()")
        yield "$" + digits
        return
    used = 1
    while used < len(digits) and int(digits[: used + 1]) <= groups:
        used += 1
    yield int(digits[:used])
    yield digits[used:]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


class CertificatePrincipals:
    """Which principal a client's certificate stands for, by what an operator has configured."""

    def __init__(self, source: Source = "subject", rules: Iterable[str] = ()) -> None:
        """Take the subject, or the first alternative name of a kind to which a rule applies. Raises ValueError."""
        self._kind = _SAN_KINDS.get(source)
        self._rules = PrincipalRules(rules)

    def principal(self, certificate: Certificate | None) -> str:
        """Return ``User:...``; without a certificate, ``User:ANONYMOUS``, as Kafka does where it is optional.

        Raises:
            PrincipalError: the certificate stands for nobody here; the connection must be closed, as Kafka does.
        """
        if not certificate:
            return ANONYMOUS
        seen = [distinguished_name(certificate)] if self._kind is None else list(self._alternative(certificate))
        for name in seen:
            result = self._rules.name(name)
            if result:
                return f"User:{result}"
        if not any(seen):
            raise PrincipalError(f"the certificate has no {self._kind or 'subject'} name")
        raise PrincipalError(
            f"no rule applies to the certificate's {self._kind or 'subject'}: {', '.join(seen)[:NAME_CHARS_MAX]}"
        )

    def _alternative(self, certificate: Certificate) -> Iterator[str]:
        """Yield the alternative names of the kind that is asked for; odd ones are nobody's."""
        names: Iterable[tuple[str, str]] = certificate.get("subjectAltName", ())
        for kind, name in islice(names, SANS_MAX):
            if kind == self._kind and len(name) <= NAME_CHARS_MAX and not _CONTROL.search(name):
                yield name
