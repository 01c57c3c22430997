"""Every error of ours, sorted by who must act.

```
UnderstudyError                  every error of ours; class attributes hint, retryable
├── LinkError                    the network or the peer; retryable
│   ├── DeadlineError
│   ├── OverloadedError          carries retry_after_s
│   └── LinkDownError
├── AccessError                  credentials are wrong or revoked; an operator must act
├── BundleError                  an artefact must not be used; never retried blindly
│   ├── SignatureError
│   ├── DigestError
│   ├── RollbackError            older than what is trusted
│   └── ExpiredError
├── TeacherError                 the teacher answered nonsense, or not at all
├── ConfigError                  a person must edit a file; names the nearest known key
├── DataError                    a person must edit a data file; names the row
└── InvalidValueError            a programmer must edit code; also a ValueError
```

What is expected is a value, not an error: a refused student, an uncertifiable contract, a degraded
answer.
"""

from __future__ import annotations


class UnderstudyError(Exception):
    """Base of every error of ours."""

    hint = ""
    retryable = False


class LinkError(UnderstudyError):
    """The network or the peer failed; trying again may help."""

    retryable = True


class DeadlineError(LinkError):
    """The peer did not answer in time."""


class OverloadedError(LinkError):
    """The peer asks for patience.

    Attributes:
        retry_after_s: Seconds the peer asked to wait; zero when it did not say.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LinkDownError(LinkError):
    """Nobody answers at the address."""


class AccessError(UnderstudyError):
    """The peer refuses these credentials; nothing helps until they change."""

    hint = "enrol the node again: understudy node enroll"


class BundleError(UnderstudyError):
    """An artefact must not be used; the one in use stays."""


class SignatureError(BundleError):
    """A signature is missing, wrong, or by the wrong key."""


class DigestError(BundleError):
    """Bytes differ from the digest that was signed for them."""


class RollbackError(BundleError):
    """Older than what is trusted already."""


class ExpiredError(BundleError):
    """Trusted metadata is past its date."""


class TeacherError(UnderstudyError):
    """The teacher answered nonsense, or not at all."""


class ConfigError(UnderstudyError):
    """A person must edit a configuration file; the message names the key."""


class DataError(UnderstudyError):
    """A person must edit a data file; the message names file and row."""


class InvalidValueError(UnderstudyError, ValueError):
    """A programmer must edit code: a value broke its type's promise."""
