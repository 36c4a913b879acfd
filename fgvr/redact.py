"""Masking of secrets and of terminal control characters in text for consoles, logs, reports and MLflow."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

__all__ = [
    "MASK",
    "is_secret_name",
    "keep_secret",
    "masked",
    "masked_tree",
    "masked_value",
    "masked_words",
    "printable",
    "safe",
]


# The patterns that tell secrets from names: how tools, clouds and servers write their secrets.
#
# Ordinary names can look like secrets (Asian_paradise_flycatcher, Token_ring, SK-100234-BLACK-XL), so a word alone is
# never taken for one. A secret either has the format that its issuer gives it (exact characters, exact length), or
# stands where only secrets stand: a URL's user part and query, a header, the value of a field with a secret's name.
#
# Sources of the key formats: the token documentation of GitHub, GitLab, Slack, Stripe and AWS; RFC 7519 for JWT, RFC
# 7468 for PEM, RFC 3986 for URLs.

MASK: Final = "***"

_OF_KEYS: Final = frozenset(
    (
        *("api", "access", "secret", "account", "private", "encryption", "signing", "ssh", "shared", "master"),
        *("storage", "auth", "service", "subscription", "aws", "azure", "openai", "anthropic", "license", "sas"),
        *("hmac", "jwt"),
    )
)
"""A field named `<word>_key` is secret, unlike `sort_key`, `class_key` and `public_key`."""
_OF_TOKENS: Final = frozenset(
    (
        *("access", "auth", "oauth", "api", "bearer", "session", "refresh", "id", "identity", "login", "account"),
        *("secret", "security", "private", "personal", "client", "app", "bot", "service", "deploy", "device"),
        *("csrf", "xsrf", "jwt", "sas", "vault", "hf", "hub", "huggingface", "face", "github", "gitlab", "gh"),
        *("git", "slack", "discord", "telegram", "wandb", "mlflow", "ray", "openai", "anthropic", "azure", "aws"),
        *("google", "npm", "pypi", "replicate", "databricks", "docker", "registry", "dashboard", "kaggle", "cohere"),
        *("read", "write", "user", "admin", "root", "webhook", "ci", "job", "build", "upload", "download", "push"),
        *("pull", "invite", "reset", "signing", "shared", "master", "proxy", "server", "agent", "cluster"),
    )
)
"""A field named `<word>_token` is secret; any other (`image_token`, `classifier_from_token`) belongs to a model."""
_ALWAYS: Final = frozenset(
    (
        *("password", "passwd", "passphrase", "passcode", "secret", "credential", "credentials", "token"),
        *("apikey", "accesskey", "secretkey", "accountkey", "privatekey", "authtoken", "accesstoken"),
        *("sessiontoken",),
    )
)
_PASSWORDS: Final = frozenset(["password", "passwd", "passphrase", "passcode"])
_PROSE: Final = frozenset(
    (
        *("is", "was", "are", "must", "not", "no", "there", "null", "none", "missing", "required", "wrong"),
        *("empty", "unset", "cannot", "may", "should", "has", "of", "for", "in", "and", "or", "to", "from"),
        *("expected", "please", "see", "set", "true", "false", "a", "an", "the", "this", "that", "it", "invalid"),
        *("unknown", "incorrect", "str"),
    )
)
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def is_secret_name(name: str) -> bool:
    """Whether a field or variable of this name holds a secret: `hf_token`, `clientSecret`, `AWS_ACCESS_KEY_ID`.

    Of a token, an environment variable in capitals does, whoever gives it out.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    if words[-1:] == ["id"] and words[-2:-1] == ["key"]:
        words.pop()
    if not words:
        return False
    last, before = words[-1], next((word for word in reversed(words[:-1]) if not word.isdigit()), "")
    if last == "key":
        return before in _OF_KEYS
    if last == "token":
        return before == "" or before in _OF_TOKENS or name.isupper()
    if last == "pwd":
        return before != ""
    return last in _ALWAYS or last.endswith("password") or (last == "signature" and before in {"amz", "goog"})


def _digit_and_letter(text: str) -> bool:
    return re.search(r"\d", text) is not None and re.search(r"[^\W\d_]", text) is not None


def _looks_random(text: str) -> bool:
    """Whether some part of letters and digits, ten at least and with both among them, looks random.

    `sk-live-rock-2023-albumcover` is a product, `sk-test-images20240817` a folder.
    """
    return any(len(part) >= 10 and _digit_and_letter(part) and _alternates(part) for part in re.split(r"[\W_]", text))


def _alternates(text: str) -> bool:
    """Whether characters alternate in kind as in random text, and not as in InternVL3Finetuned2025.

    In random text of lower case, upper case and digits, half of all neighbours differ in kind; in names made of words,
    about a fifth. Text without upper case, as hexadecimal numbers are, goes often from letters to digits and back.
    """
    kinds = [char.isdigit() + 2 * char.isupper() for char in text]
    changes = sum(a != b for a, b in pairwise(kinds))
    numbers = sum((a == 1) != (b == 1) for a, b in pairwise(kinds))
    return changes > 0.36 * (len(kinds) - 1) or numbers >= 6


# Every repetition is bounded if a match may begin anywhere: otherwise a stranger's long text could take hours.
_START, _END = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"
_SURE: Final = re.compile(
    "|".join(
        (
            rf"{_START}AKIA[A-Z0-9]{{16}}{_END}",
            rf"{_START}ASIA(?=[A-Z]{{0,15}}[0-9])[A-Z0-9]{{16}}{_END}",  # 16 letters alone may be a name
            rf"{_START}github_pat_[A-Za-z0-9_]{{20,255}}",
            rf"{_START}gh[pousr]_[A-Za-z0-9]{{36}}{_END}",
            rf"{_START}(?:hf|api_org)_[A-Za-z0-9]{{34}}{_END}",
            rf"{_START}glsa_[A-Za-z0-9]{{32}}_[0-9a-f]{{8}}{_END}",
            rf"{_START}shp(?:at|ca|pa|ss)_[0-9a-fA-F]{{32}}{_END}",
            rf"{_START}ya29\.[A-Za-z0-9_-]{{20,500}}",
            rf"{_START}SG\.[A-Za-z0-9_-]{{20,24}}\.[A-Za-z0-9_-]{{40,46}}",
            rf"{_START}pypi-Ag[A-Za-z0-9_-]{{50,1000}}",
            rf"{_START}dapi[0-9a-f]{{32}}(?![0-9a-z])",
            rf"{_START}do[opr]_v1_[0-9a-f]{{64}}{_END}",
            # Webhook addresses: whoever knows one may write there.
            r"(?<=hooks\.slack\.com/)(?:services|workflows)/[A-Za-z0-9/]{20,200}",
            r"(?<=/api/webhooks/)\d{15,20}/[A-Za-z0-9_-]{20,100}",
            rf"{_START}AGE-SECRET-KEY-1[A-Z0-9]{{58}}{_END}",
            # JSON Web Tokens: two parts that begin like JSON objects in base64, and a signature.
            rf"{_START}eyJ[A-Za-z0-9_-]{{6,4000}}\.(?:eyJ[A-Za-z0-9_-]{{2,8000}}|[A-Za-z0-9_-]{{20,8000}})\.[A-Za-z0-9_-]{{5,2000}}",
        )
    )
)
# Prefixes that names begin with, too (glpat-terns-and-gulls, r8_redshank): what follows must look random.
_PREFIXED: Final = re.compile(
    rf"{_START}(?:(?:gh[pousr]_|hf_)(?=[A-Za-z0-9]{{20}})|(?:[srp]k|whsec)_(?:live|test)_(?=[A-Za-z0-9]{{16}})"
    rf"|npm_(?=[A-Za-z0-9]{{36}}{_END})|(?:gsk_|r8_|xai-|pplx-)(?=[A-Za-z0-9]{{32}}))([A-Za-z0-9]{{16,255}}){_END}"
    rf"|(?:{_START}(?:gl(?:pat|dt|rt|ptt|cbt|ft|soat|agent|oas)-|GOCSPX-|AIzaSy)(?=[\w-]{{20}})"
    rf"|{_START}(?:nvapi-|tgp_v1_)(?=[\w-]{{32}})|{_START}dckr_pat_(?=[\w-]{{27}}(?![\w-]))"
    # Google's keys, and those of Telegram's bots
    rf"|{_START}AIza(?=[\w-]{{35}}(?![\w-]))|(?<!\d)\d{{8,10}}:AA(?=[\w-]{{33}}(?![\w-])))([A-Za-z0-9_-]{{20,255}})"
    r"(?:\.\d\d\.\w{7,12})?"  # of GitLab's longer ones
)
_LIKELY: Final = re.compile(
    rf"{_START}(?:sk-(?:proj|ant|svcacct|admin|or|live|test|lf|None)-[A-Za-z0-9_-]{{12,400}}"
    rf"|sk-(?=[A-Za-z0-9]{{16}})[A-Za-z0-9]{{16,400}}(?![\w-])"
    rf"|xox[abceprsd](?:\.xox[bp])?-[A-Za-z0-9-]{{10,400}}|xapp-\d-[A-Za-z0-9-]{{10,400}})"
)
_PEM: Final = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----(?!\*)"
    r".*?(?:-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)

# scheme://user:password@host. After a colon the password may hold / and @, unless what follows is a port: the last @
# followed by a host counts, else the last @ before the path.
_USER: Final = re.compile(
    r"""(?<![a-z0-9+.-])(?!file:)([a-z][a-z0-9+.-]{0,30}://)(?!\*\*\*@)(?!\[[0-9a-f:.]{2,45}\](?::\d|[/?#\s]|$))"""
    r"""(?:[^\s/@:'"<>]{0,200}:(?!\d{1,5}(?:/|\s|$))"""
    r"""(?:[^\s'"<>]{0,300}@(?=(?:[\w.-]{1,255}|\[[0-9a-f:.]{2,45}\])(?::\d|/))|[^\s/'"<>]{0,300}@|[^\s'"<>]{0,300}@)"""
    r"""|[^\s/?#'"<>]{1,500}@)""",
    re.IGNORECASE,
)
# Signed URLs of AWS, Google, Azure (sig), CloudFront (policy), Akamai (hdnts), and any parameter named token.
_QUERY: Final = re.compile(r"""([?&;])([\w.%-]{1,60})=(?!\*\*\*)((?:(?!\?[\w.%-]{1,60}=)[^&\s'"#<>]){1,4000})""")
_OF_QUERIES: Final = frozenset(
    (
        *("sig", "signature", "key", "token", "auth", "policy", "key-pair-id", "googleaccessid", "hdnts"),
        *("hdnea", "hmac", "pwd", "pass", "jwt", "code", "credential", "access_token", "sessionid", "sas"),
    )
)
_OF_CONNECTIONS: Final = re.compile(r"pwd$|password$|.key$")
"""Fields of connection strings (`Server=db;Uid=me;Pwd=…`, `AccountName=a;AccountKey=…`)."""
_OF_THINGS: Final = frozenset(["key", "code"])
"""Parameters that as often name an object or a product: secret where the value looks random."""
_NAME: Final = re.compile(
    r"""(?<![\w.-])(?P<flag>--)?(?P<name>[A-Za-z_][\w.-]{0,80})(?P<quote>\\?["'])?"""
    r"""(?P<sep>[ \t]{0,3}(?:=>|:=|[:=])[ \t]{0,3}|(?(flag)[ \t]|(?!)))(?P<open>(?:Secret\w{3,5}\()?b?\\?["'])?"""
)
_QUOTED: Final = re.compile(r"""[^"'\\\n]{1,4000}""")
_BARE: Final = re.compile(r"""[^&\s"',;)}\]<>]{1,4000}""")
_PART: Final = re.compile(r"""[^&\s"',;)}\]<>/]{1,4000}""")
_HEADER: Final = re.compile(
    r"""(?P<head>(?<![\w])(?:proxy-)?authorization["']?\s{0,3}[:=,]\s{0,3}(?:b?["'])?)"""
    r"""(?:(?P<scheme>[A-Za-z][\w-]{1,30})[ \t]{1,3})?"""
    r"""(?!\*\*\*)(?P<value>[^\s"'}\\,]{1,4000}(?:,[ \t]{0,2}[\w-]{1,40}=[^\s"'}\\,]{1,2000}){0,8})""",
    re.IGNORECASE,
)
_SCHEMES: Final = frozenset(
    (
        *("basic", "bearer", "token", "digest", "apikey", "key", "negotiate", "ntlm", "hawk", "splunk"),
        *("sharedkey", "aws", "aws4-hmac-sha256", "goog4-rsa-sha256", "dpop", "oauth", "hmac", "snowflake"),
    )
)
_NAMED_HEADER: Final = re.compile(
    r"""((?<![\w-])(?:x-api-key|api-key|private-token|x-auth-token|x-amz-security-token|x-vault-token|"""
    r"""ocp-apim-subscription-key)["']?[ \t]{0,3}[:=,][ \t]{0,3}(?:b?["'])?)(?!\*\*\*)[^\s"'},;\\]{1,4000}""",
    re.IGNORECASE,
)


# Elsewhere a bearer carries a standard or a ring.
_BEARER: Final = re.compile(r"""(?<=["'])([Bb]earer )(?=[\w~+/.-]{16})([\w~+/.-]{16,4000}={0,2})""")
# An entry of a netrc file, and curl's user option.
_LOGIN: Final = re.compile(
    r"""(\bmachine\s{1,9}\S{1,200}\s{1,9}login\s{1,9}\S{1,200}\s{1,9}password\s{1,9}"""
    r"""|(?<!\S)(?:-u|--user)[ \t=]{1,9}["']?[^\s:'"/]{1,200}:)(?!\*\*\*)[^\s'"]{1,400}"""
)
_COOKIE: Final = re.compile(
    r"""((?<![\w-])(?:set-)?cookie["']?[ \t]{0,3}[:,][ \t]{0,3}(?:b?["'])?)[\w.-]{1,80}=[^"'\n\\]{1,4000}""",
    re.IGNORECASE,
)


def mask_forms(text: str) -> str:
    """Data (a name, a path, a URL, a config value) with everything masked that has the format of a secret."""
    text = _PEM.sub(rf"-----BEGIN \1-----{MASK}", text)
    text = _USER.sub(rf"\1{MASK}@", text)
    text = _QUERY.sub(_without_query_secret, text)
    text = _SURE.sub(MASK, text)
    text = _PREFIXED.sub(lambda found: MASK if _alternates(found[1] or found[2]) else found[0], text)
    return _LIKELY.sub(lambda found: MASK if _looks_random(found[0]) else found[0], text)


def mask_places(text: str) -> str:
    """Messages, logs and command lines: also masks what stands in a secret's place, by its header or field name."""
    text = _HEADER.sub(_without_credentials, text)
    text = _COOKIE.sub(rf"\1{MASK}", _NAMED_HEADER.sub(rf"\1{MASK}", text))
    text = _LOGIN.sub(rf"\1{MASK}", text)
    text = _BEARER.sub(lambda found: f"{found[1]}{MASK}" if _looks_random(found[2]) else found[0], text)
    parts, at = [], 0
    for name in _NAME.finditer(text):
        after_semicolon = text[max(name.start() - 1, 0)] == ";"
        if name.start() < at or not (
            is_secret_name(name["name"]) or (after_semicolon and name["name"].lower() == "pwd")
        ):
            continue
        form = _QUOTED if name["open"] else _BARE
        if text[max(name.start() - 1, 0)] == "/":  # a partition folder, e.g. token=1
            form = _PART
        value = form.match(text, name.end())
        if value is not None and not value[0].startswith(MASK) and _is_secret(text, name, value):
            parts += [text[at : name.end()], MASK]
            at = value.end()
    return "".join([*parts, text[at:]])


def _without_query_secret(found: re.Match[str]) -> str:
    """A query of a URL without the value of a secret parameter; elsewhere (a;key=b.jpg) it must look like one."""
    name = found[2].lower()
    if name not in _OF_QUERIES and not is_secret_name(found[2]) and not name.endswith(("signature", "credential")):
        return found[0]
    text, end = found.string, found.start()
    first = max(text.rfind(sign, max(end - 4000, 0), end) for sign in " \t\n\r'\"<>")
    before = text[max(first + 1, end - 4000, 0) : end + 1]
    signed = name.endswith(("signature", "credential")) and "?" in before  # also in a URL's end alone
    connects = found[1] == ";" and _OF_CONNECTIONS.search(name) is not None
    # Errors of requests show a URL without its host: /v1?sig=...
    asked = "?" in (before if before.startswith("/") else before.partition("://")[2])
    certain = signed or connects or asked
    secret = (certain and name not in _OF_THINGS) or _looks_random(found[3])
    return f"{found[1]}{found[2]}={MASK}" if secret else found[0]


def _without_credentials(found: re.Match[str]) -> str:
    scheme, value = found["scheme"], found["value"]
    if scheme is None:
        secret = value.lower() not in _SCHEMES and (_digit_and_letter(value) or len(value) >= 16)
        return f"{found['head']}{MASK}" if secret else found[0]
    if scheme.lower() not in _SCHEMES or (value.lower() in _PROSE and scheme.lower() in {"token", "key"}):
        return found[0]
    return found[0][: found.start("value") - found.start()] + MASK


def _is_secret(text: str, name: re.Match[str], value: re.Match[str]) -> bool:
    """Whether the value behind a secret's name is really one, judged by how it stands there: prose has colons too."""
    said, word = value[0], _WORDS.findall(name["name"])[-1].lower()
    if name["quote"] or name["open"] or name["sep"].strip() == ":=":
        return True
    in_path = text[max(name.start() - 1, 0)] == "/"
    if ":" not in name["sep"] and not in_path:
        return True
    if text[max(name.start() - 40, 0) : name.start()].rstrip(" \t\n\"'\\").endswith(("{", ",", "[")):
        return True  # an entry of JSON, flow YAML or a printed Python dict
    if not in_path and (word in _PASSWORDS or word.endswith("password")):
        return said.lower() not in _PROSE
    # "Secret: a novel", "Victorias_Secret: Body Mist" and "master_key: mallard" are titles and names.
    return len(said) >= 6 and (_digit_and_letter(said[:200]) or (len(said) >= 12 and _alternates(said[:40])))


# Masking for consoles, logs, reports and MLflow.
#
# Labels and answers come from a model, file names from strangers, and addresses may carry passwords or signatures.
# Text that is shown to people, or kept where more people read than those who started the run, must pass through
# these functions.

SHORTEST_SECRET = 8
"""Values of secret variables shorter than this (`testing`) also occur as ordinary words and are not masked."""
PLAIN_WORD = 20
"""Up to this length, a value of lower-case letters only (`password`, `changeme`) is masked only as a whole word."""

_GIVEN: set[str] = set()
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_VARIABLE = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)$")


def keep_secret(value: str) -> None:
    """From now on `masked` replaces this value wherever it occurs, in this process."""
    if len(value) >= SHORTEST_SECRET:
        _GIVEN.add(value)


def masked(text: str) -> str:
    """A message with `***` in place of secrets.

    This masks what `masked_value` masks, and also what stands in a secret's place: headers, and values of fields
    called key, token or password.
    """
    return mask_places(masked_value(text))


def masked_words(words: Sequence[str]) -> list[str]:
    """The words of a command line, each `masked`; the value after a secret flag (`--hf-token x`) is masked entirely."""
    flags = ["", *words][:-1]  # the word before each word
    return [
        MASK
        if before.startswith("--") and "=" not in before and word and is_secret_name(before) and word[:2] != "--"
        else masked(word)
        for before, word in zip(flags, words, strict=True)
    ]


def masked_value(text: str) -> str:
    """Data (a name, a path, a config value) with `***` in place of secrets, and otherwise unchanged.

    Masks passwords and signatures in URLs, keys of known formats, and the values of environment variables whose
    name ends in KEY, TOKEN, SECRET or PASSWORD.
    """
    for value in _known_secrets():
        if value not in text:
            continue
        if len(value) < PLAIN_WORD and value.isalpha() and value.islower():
            text = re.sub(rf"(?<![\w-]){value}(?![\w-])", MASK, text)
        else:
            text = text.replace(value, MASK)
    return mask_forms(text)


def masked_tree(value: Any, name: str = "") -> Any:
    """`masked_value` of all texts in nested mappings and lists; a value under a secret's name is masked entirely."""
    if isinstance(value, Mapping):
        return {key: masked_tree(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_tree(item, name) for item in value]
    if isinstance(value, str):
        return MASK if value and is_secret_name(name) else masked_value(value)
    return value


def printable(text: str) -> str:
    """`text` made safe for a terminal: colours are dropped, other control characters become `�`; line breaks stay."""
    plain = _COLOUR.sub("", text)
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in plain)


def safe(text: str) -> str:
    """`masked` and then `printable`."""
    return printable(masked(text))


def _known_secrets() -> list[str]:
    """Longest first: one secret may begin with another. A variable may also name the file that holds its secret."""
    named = {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_SECRET and _holds_secret(name, value) and not os.path.exists(value)  # noqa: PTH110  # no error, however long
    }
    return sorted(_GIVEN | named, key=len, reverse=True)


def _holds_secret(variable: str, value: str) -> bool:
    """Whether an environment variable holds a secret, by its name; `SORT_KEY` and `BUCKET_KEY` hold names of things."""
    if not _VARIABLE.search(variable):
        return False
    return not variable.endswith("KEY") or is_secret_name(variable) or _looks_random(value)
