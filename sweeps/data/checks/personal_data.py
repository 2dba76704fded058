"""Thorough check for personal data and secrets: a hosted backend uploads the file.

No finding shows what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from sweeps.data.checks.cases import Cases
from sweeps.data.checks.view import DataView
from sweeps.data.findings import Finding

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?!example\.)(?:[\w-]{1,63}\.){1,5}[A-Za-z]{2,24}(?![\w-])")
_NUMBER = re.compile(r"(?<![\w.,])[+(]?\d[\d ().-]{6,24}\d(?![\w])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
_SECRET = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
    r"|(?<![\w-])(?:"
    r"sk-[A-Za-z0-9_-]{20,}|sk_live_[A-Za-z0-9]{16,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}"
    r"|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20}|xox[abprs]-[A-Za-z0-9-]{10,}|AIza[0-9A-Za-z_-]{35}"
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r")(?![\w-])"
)
"""The forms in which vendors issue keys and tokens; none matches ordinary text."""

_TELEPHONE = re.compile(
    r"\+\d[\d ().-]{6,17}\d"  # international
    r"|\(?[2-9]\d{2}\)?[ .-][2-9]\d{2}[ .-]\d{4}"  # North American
    r"|0\d{9,10}|0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,4}"  # national, with the 0 of many countries
)


def check_personal_data(view: DataView) -> Iterator[Finding]:
    """Report examples with addresses, numbers of people and accounts, and with keys."""
    personal, secret = Cases(), Cases()
    kinds: dict[str, int] = {}
    for example in chain.from_iterable(view.parts.values()):
        text = f"{example.prompt}\n{example.completion}"
        found = personal_data_in(text)
        if found:
            personal.add(example)
            for kind in found:
                kinds[kind] = kinds.get(kind, 0) + 1
        if _SECRET.search(text):
            secret.add(example)
    if personal:
        counted = ", ".join(f"{count:,} with {kind}" for kind, count in sorted(kinds.items()))
        hint = "a hosted backend uploads them, and a model may repeat them; replace them by placeholders"
        yield personal.warning("personal-data", f"personal data in {personal.in_words()}: {counted}", hint)
    if secret:
        message = f"an access key or a private key in {secret.in_words()}"
        yield secret.warning("secret", message, "revoke it, since it is in a file, and remove it or drop: [secret]")


def personal_data_in(text: str) -> tuple[str, ...]:
    """Return the kinds of personal data in a text, each with its article."""
    found = []
    if "@" in text and _EMAIL.search(text):
        found.append("an e-mail address")
    numbers = _NUMBER.findall(text)
    if any(_is_card(number) for number in numbers):
        found.append("a credit card number")
    if any(_is_iban(match) for match in _IBAN.findall(text)):
        found.append("an IBAN")
    if any(_TELEPHONE.fullmatch(number) and not _is_card(number) for number in numbers):
        found.append("a telephone number")
    return tuple(found)


def _is_card(number: str) -> bool:
    """Return whether the digits are those of a card: 13 to 19, Luhn's checksum, a known issuer."""
    digits = [int(character) for character in number if character.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (3, 4, 5, 6) or len(set(digits)) < 2:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """Return whether the checksum of an international bank account number is right (ISO 13616)."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1
