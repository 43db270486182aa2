"""Who may do what: an API key, as its file has it, or a token says."""

import hashlib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from tta_server.errors import Forbidden
from tta_server.names import stream_of_domain
from tta_server.settings_door import Section

Permission = Literal["infer", "read", "operate", "admin"]
SCOPES: Final[tuple[Permission, ...]] = get_args(Permission)
"""What may be done, each with all before it: ask for predictions and label them; look at streams and metrics; change a
stream; erase, import and switch all."""

EVERYTHING: Final = "*"

_OF_STREAMS = re.compile(r"[A-Za-z0-9._*?-]{1,64}")
_OF_MODELS = re.compile(r"[A-Za-z0-9._:@*?-]{1,64}")  # whose names hold more


def digest_of(secret: str) -> str:
    """Return what is kept of a key: SHA-256, which is enough for 256 random bits, for nobody can guess them."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _of_streams(text: str) -> str:
    if not _OF_STREAMS.fullmatch(text):
        raise ValueError(f"pattern {text[:80]!r} must be 1 to 64 letters, digits, '.', '_', '-', '*' or '?'")
    return text


def _of_models(text: str) -> str:
    if not _OF_MODELS.fullmatch(text):
        raise ValueError(f"pattern {text[:80]!r} must be 1 to 64 letters, digits, '.', '_', '-', ':', '@', '*' or '?'")
    return text


StreamPattern = Annotated[str, AfterValidator(_of_streams)]
ModelPattern = Annotated[str, AfterValidator(_of_models)]


class Key(Section):
    """One key.

    Attributes:
        name: What the audit log calls who holds it; a token's subject, which others than us have named.
        sha256: Digest of the key or token; neither is kept anywhere.
        scopes: What it may be used for; each scope holds those before it.
        streams: Patterns of the streams that it is for, and their domains; `*` and `?` stand for any characters, any
            character.
        models: Patterns of the models that it is for.
        images_per_s: How many images it may have answered, on average; None sets no limit.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._@:|/+-]{1,256}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: list[Permission] = Field(min_length=1)
    streams: list[StreamPattern] = Field(min_length=1)
    models: list[ModelPattern] = Field([EVERYTHING], min_length=1)
    images_per_s: float | None = Field(None, gt=0, allow_inf_nan=False, strict=True)

    @model_validator(mode="after")
    def _is_a_name(self) -> "Key":
        if self.name.casefold() == "engine":
            raise ValueError("a key cannot be called 'engine': the audit log calls the server itself so")
        return self

    @property
    def is_for_every_stream(self) -> bool:
        """Whether it is for all streams that there may be."""
        return EVERYTHING in self.streams

    def may(self, scope: Permission) -> bool:
        """Return whether it holds a scope."""
        return max(map(SCOPES.index, self.scopes)) >= SCOPES.index(scope)

    def is_for_stream(self, name: str) -> bool:
        """Return whether it is for a stream, or for a domain of one."""
        return _matches(stream_of_domain(name), self.streams)

    def is_for_model(self, name: str) -> bool:
        """Return whether it is for a model."""
        return _matches(name, self.models)

    def expect_scope(self, scope: Permission) -> None:
        """Do nothing if the key holds a scope.

        Raises:
            Forbidden: If it does not.
        """
        if not self.may(scope):
            raise Forbidden(f"key '{self.name}' has the scopes {', '.join(self.scopes)}; this takes '{scope}'")

    def expect_streams(self, *names: str) -> None:
        """Do nothing if the key is for all of these streams; without any, if it is for every stream.

        Raises:
            Forbidden: If it is not.
        """
        if not names and not self.is_for_every_stream:
            raise Forbidden(
                f"key '{self.name}' is for the streams {', '.join(self.streams)}; this is about all of them"
            )
        for name in names:
            if not self.is_for_stream(name):
                raise Forbidden(
                    f"key '{self.name}' is for the streams {', '.join(self.streams)}, not for '{name[:80]}'"
                )

    def expect_model(self, name: str, called: str = "") -> None:
        """Do nothing if the key is for a model.

        Args:
            name: The model.
            called: What it is called if the key does not name it itself, and so need not hear its name.

        Raises:
            Forbidden: If it is not.
        """
        if not self.is_for_model(name):
            told = called or f"'{name[:80]}'"
            raise Forbidden(f"key '{self.name}' is for the models {', '.join(self.models)}, not for {told}")


ANYBODY: Final = Key(name="anybody", sha256="0" * 64, scopes=["admin"], streams=[EVERYTHING], images_per_s=None)
"""Whoever asks a server without keys."""


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return EVERYTHING in patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
