"""Principals from certificates: names as Java writes them, rules as Kafka reads them, and nothing odd let through.

Java's names were taken from X500Principal.getName() of OpenJDK 17, its replacements from what Kafka does with a rule
(Matcher.matches, then String.replaceAll).
"""

from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.core.acceptor import ANONYMOUS
from kproxy.core.distinguished import (
    NAME_CHARS_MAX,
    RULES_MAX,
    SANS_MAX,
    Certificate,
    CertificatePrincipals,
    PrincipalError,
    PrincipalRules,
    distinguished_name,
)

Parts = tuple[tuple[tuple[str, str], ...], ...]

DUKE = "CN=Duke,OU=ServiceUsers,O=Org,C=US"
SME = "CN=Duke,OU=SME,O=mycp,L=Fulton,ST=MD,C=US"


def one(*pairs: tuple[str, str]) -> Parts:
    """Write a subject as getpeercert() does: the least specific part first, one attribute in each."""
    return tuple((pair,) for pair in pairs)


JAVAS_NAMES: list[tuple[Parts, str]] = [
    (
        one(
            ("countryName", "DE"),
            ("stateOrProvinceName", "BY"),
            ("localityName", "M"),
            ("organizationName", "org"),
            ("organizationalUnitName", "team"),
            ("commonName", "alice"),
        ),
        "CN=alice,OU=team,O=org,L=M,ST=BY,C=DE",
    ),
    (one(("commonName", ' #a,b+c"d\\e<f>g;h=i#j ')), r"CN=\ \#a\,b\+c\"d\\e\<f\>g\;h\=i\#j\ "),
    (one(("commonName", "  two  inner  ")), r"CN=\ \ two  inner\ \ "),
    (one(("commonName", "   ")), r"CN=\ \ \ "),
    (one(("commonName", " ")), "CN=\\ "),
    (one(("commonName", "größe/日本\u00a0x")), "CN=größe/日本\u00a0x"),
    (one(("commonName", "a*b?c!@|~`^%$&{}[]'()_-:./")), "CN=a*b?c!@|~`^%$&{}[]'()_-:./"),
    (one(("commonName", "a"), ("commonName", "b")), "CN=b,CN=a"),
    (
        one(
            ("domainComponent", "com"),
            ("domainComponent", "example"),
            ("userId", "u1"),
            ("streetAddress", "s 1"),
            ("emailAddress", "a@b.c"),
            ("serialNumber", "12"),
            ("title", "Dr"),
            ("givenName", "G"),
            ("surname", "S"),
            ("commonName", "x"),
        ),
        (
            "CN=x,2.5.4.4=#0c0153,2.5.4.42=#0c0147,2.5.4.12=#0c024472,2.5.4.5=#13023132,"
            "1.2.840.113549.1.9.1=#16056140622e63,STREET=s 1,UID=u1,DC=example,DC=com"
        ),
    ),
    (
        ((("commonName", "m"), ("organizationalUnitName", "n"), ("userId", "z")), (("organizationName", "o"),)),
        "O=o,CN=m+OU=n+UID=z",
    ),
    (one(("1.3.6.1.4.1.99999.1", "odd"), ("commonName", "x")), "CN=x,1.3.6.1.4.1.99999.1=#0c036f6464"),
    ((), ""),
]


@pytest.mark.parametrize(("subject", "name"), JAVAS_NAMES)
def test_the_subject_as_java_writes_it(subject: Parts, name: str) -> None:
    """A subject is written as Java, and so Kafka, writes it: order, keywords, numbers, escapes."""
    assert distinguished_name({"subject": subject}) == name
    with nullcontext() if name else pytest.raises(PrincipalError):
        assert CertificatePrincipals().principal({"subject": subject, "notAfter": "x"}) == f"User:{name}"


@pytest.mark.parametrize(("count", "length"), [(127, "7f"), (128, "8180"), (255, "81ff"), (256, "820100")])
def test_long_values_by_number(count: int, length: str) -> None:
    """The DER of a long value has a length of several bytes."""
    assert distinguished_name({"subject": one(("title", "x" * count))}) == f"2.5.4.12=#0c{length}{'78' * count}"


def test_a_kind_that_nobody_knows() -> None:
    """An attribute of which only OpenSSL knows the name is written by that name."""
    assert distinguished_name({"subject": one(("rareThing", "a,b"))}) == r"rareThing=a\,b"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a\nb", "control"),
        ("a\0b", "control"),
        ("a\x85b", "control"),
        ("a\u2028b", "control"),
        ("x" * (NAME_CHARS_MAX + 1), "longer"),
    ],
)
@pytest.mark.parametrize("kind", ["commonName", "title"])
def test_odd_subjects(kind: str, value: str, why: str) -> None:
    """A subject with control characters, or one that no honest authority signs, is nobody's."""
    with pytest.raises(PrincipalError, match=why):
        CertificatePrincipals().principal({"subject": one((kind, value))})


@pytest.mark.parametrize(
    ("rules", "name", "result"),
    [
        ([], DUKE, DUKE),
        (["DEFAULT"], DUKE, DUKE),
        ([""], DUKE, DUKE),
        ([", ,"], DUKE, DUKE),
        (["RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/"], DUKE, "Duke"),
        (["RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/L"], DUKE, "duke"),
        (["RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/U"], DUKE, "DUKE"),
        (["RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/L"], SME, None),
        (["RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/L", "DEFAULT"], SME, SME),
        (["  RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/L  , ,  DEFAULT,"], SME, SME),
        (["RULE:^CN=(.*?),OU=(.*?),O=(.*?),L=(.*?),ST=(.*?),C=(.*?)$/$1@$2/L"], SME, "duke@sme"),
        (["RULE:^.*[Cc][Nn]=([a-zA-Z0-9.]*).*$/$1/U"], "cN=duke,OU=JavaSoft,O=Sun Microsystems", "DUKE"),
        (["RULE:^CN=((\\\\, *|\\w)+)(,.*|$)/$1/,DEFAULT"], "CN=Tkac\\, Adam,OU=ITZ", "Tkac\\, Adam"),
        # A rule that matches a part only does not apply.
        (["RULE:Duke/x/"], DUKE, None),
        # Java's replaceAll: the empty end is a find of its own; after an empty find it goes on a character later.
        (["RULE:.*/x/"], DUKE, "xx"),
        (["RULE:.*/x/"], "", "x"),
        (["RULE:(.*?)/<$1>/"], "a/b", "<>a<>/<>b<>"),
        # Groups: the longest number that exists; what does not exist is literal text; 0 is the whole.
        (["RULE:CN=(.*?),.*/$1$12$2$39/"], DUKE, "DukeDuke2$2$39"),
        (["RULE:(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)(.).*/$11$1$12$110/"], DUKE, "=CC2=0"),
        (["RULE:CN=.*/[$0]/"], "CN=a", "[CN=a]"),
        (["RULE:CN=(a)|OU=(.*)/[$1|$2]/"], "OU=x", "[|x]"),
        # Escapes, and named groups as Java writes them.
        ([r"RULE:(a)\/(b)/$2\/$1\$1\\/"], "a/b", "b/a$1\\"),
        ([r"RULE:(?<first>.)\k<first>(?<rest>.*)\(/${rest}${first}/"], "aabc(", "bca"),
        ([r"RULE:\w+/x/"], "größe", None),
    ],
)
def test_rules(rules: list[str], name: str, result: str | None) -> None:
    """Rules make of a name what Kafka's would."""
    assert PrincipalRules(rules).name(name) == result


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("default", "is not a rule"),
        ("DEFAULT/L", "is not a rule"),
        ("RULE:CN=(.*?),OU=ServiceUsers.*/$1", "is not a rule"),
        ("rule:^CN=(.*)$/$1/", "is not a rule"),
        ("RULE:^CN=(.*)$/$1/L/U", "is not a rule"),
        ("RULE:^CN=(.*)$/L", "is not a rule"),
        ("RULE:^CN=(.*)$/$1/l", "is not a rule"),
        ("RULE:a/b/,RULE:" + "x" * 100, r"x\.\.\.' is not a rule"),
        ("RULE:CN=(.*/$1/", "not a regular expression"),
        (r"RULE:\p{L}+/x/", "not a regular expression"),
        ("RULE:[a-z&&[^b]]/x/", "not a regular expression"),
        ("RULE:a{99999999999999999999}/x/", "not a regular expression"),
        ("RULE:CN=.*/$1/", "has none"),
        ("RULE:CN=(.*)/$/", "no number behind it"),
        ("RULE:CN=(.*)/${name}/", "names no group"),
        (",".join(["DEFAULT"] * (RULES_MAX + 1)), f"more than {RULES_MAX}"),
    ],
)
def test_mistakes_in_rules(rule: str, why: str) -> None:
    """A rule that cannot be read, or that Kafka would fail on at a login, is refused with advice on one line."""
    with pytest.raises(ValueError, match=why) as caught:
        PrincipalRules([rule])
    assert "\n" not in str(caught.value)


SANS = (
    ("DNS", "a.example.com"),
    ("email", "alice@example.com"),
    ("IP Address", "10.0.0.7"),
    ("URI", "spiffe://example.org/ns/a/sa/first"),
    ("URI", "spiffe://example.org/ns/b/sa/second"),
)
FULL: Certificate = {"subject": one(("commonName", "alice")), "subjectAltName": SANS}


def test_alternative_names() -> None:
    """The first alternative name of the kind that is asked for, and to which a rule applies, is the principal."""
    assert CertificatePrincipals("san_dns").principal(FULL) == "User:a.example.com"
    assert CertificatePrincipals("san_email", ["RULE:(.*)@example.com/$1/"]).principal(FULL) == "User:alice"
    assert CertificatePrincipals("san_uri").principal(FULL) == "User:spiffe://example.org/ns/a/sa/first"
    by_rule = CertificatePrincipals("san_uri", [r"RULE:^spiffe:\/\/example.org\/ns\/b\/sa\/(.*)$/$1/"])
    assert by_rule.principal(FULL) == "User:second"


def test_nobody() -> None:
    """A certificate without a fitting name, or of which a rule leaves nothing, is refused; the reason names no more."""
    with pytest.raises(PrincipalError, match="no rule applies to the certificate's subject: CN=alice"):
        CertificatePrincipals("subject", ["RULE:O=.*/x/"]).principal(FULL)
    with pytest.raises(PrincipalError, match="no rule applies to the certificate's subject"):
        CertificatePrincipals("subject", ["RULE:CN=.*//"]).principal(FULL)
    with pytest.raises(PrincipalError, match=r"no rule applies to the certificate's URI: spiffe:.*first, spiffe:"):
        CertificatePrincipals("san_uri", ["RULE:x/x/"]).principal(FULL)
    with pytest.raises(PrincipalError, match="no DNS name"):
        CertificatePrincipals("san_dns").principal({"subject": FULL["subject"]})
    with pytest.raises(PrincipalError, match="no subject name"):
        CertificatePrincipals().principal({"subject": (), "subjectAltName": SANS})


def test_odd_alternative_names() -> None:
    """Alternative names that are too long, too far down or hold control characters are passed over."""
    odd = (("DNS", "a\nb"), ("DNS", "x" * (NAME_CHARS_MAX + 1)), ("DNS", "good"))
    assert CertificatePrincipals("san_dns").principal({"subjectAltName": odd}) == "User:good"
    far = (*[("email", "e")] * SANS_MAX, ("DNS", "far"))
    with pytest.raises(PrincipalError):
        CertificatePrincipals("san_dns").principal({"subjectAltName": far})


@pytest.mark.parametrize("certificate", [None, {}])
def test_no_certificate(certificate: Certificate | None) -> None:
    """Without a certificate a client is anonymous, as it is to Kafka; no rule can change that."""
    assert CertificatePrincipals("subject", ["RULE:.*/admin/"]).principal(certificate) == ANONYMOUS


@given(st.text(max_size=200))
def test_any_rule(text: str) -> None:
    """Invariant: any text makes rules or ValueError, and rules that were made never fail on a name."""
    for entry in (text, f"RULE:{text}", f"RULE:(.*)/{text}/", f"RULE:{text}/$0/L"):
        try:
            rules = PrincipalRules([entry])
        except ValueError:
            continue
        assert rules.name("CN=a") is None or isinstance(rules.name("CN=a"), str)


@given(st.lists(st.tuples(st.sampled_from(["commonName", "title", "1.2.3"]), st.text(max_size=30)), max_size=5))
def test_any_subject(pairs: list[tuple[str, str]]) -> None:
    """Invariant: any subject makes a principal on one line, or PrincipalError."""
    try:
        principal = CertificatePrincipals().principal({"subject": one(*pairs), "version": 3})
    except PrincipalError:
        return
    assert principal.startswith("User:")
    assert len(principal.splitlines()) == 1
