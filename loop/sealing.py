"""Keys, sealed boxes and sealed rows: what keeps a blinded session's arm out of sight (libsodium by PyNaCl).

Blinding here is against eyes, not against an adversary with the session computer: a machine that is to run the arm must be
able to read it, so its key opens it. Keep that key file readable by the recording account alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from loop import session_file as sf
from loop.session_file import JournalError, LogRow, SessionMeta

KEY_BYTES: Final = 32
SEALED_KINDS: Final = frozenset({"allotted", "to_guard", "device", "decision", "gate"})
_OPENING: Final = b'{"sealed":'


class SealError(ValueError):
    """A key or a sealed text cannot be used; one sentence says which and what to do."""


class SealedError(JournalError):
    """A row of a blinded session was asked for without the key."""


class KeyPair(NamedTuple):
    """An officer's or a machine's keys, 32 bytes each."""

    private: bytes
    public: bytes


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sealed: str


def _nacl() -> Any:
    try:
        import nacl.exceptions
        import nacl.public
        import nacl.secret
    except ImportError as error:
        raise SealError("blinding needs PyNaCl, which is not installed; pip install 'cereloop[blinding]'") from error
    return nacl


def new_pair() -> KeyPair:
    """A fresh pair of keys from the system's generator. Raises SealError where PyNaCl is missing."""
    private = _nacl().public.PrivateKey.generate()
    return KeyPair(bytes(private), bytes(private.public_key))


def public_of(private: bytes) -> bytes:
    """The public key of a private one."""
    return bytes(_nacl().public.PrivateKey(private).public_key)


def write_key(path: Path, private: bytes, whose: str) -> None:
    """Write a private key that only this user may read; an existing file is never replaced.

    Raises
    ------
    SealError
        If the file exists or cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise SealError(f"{path} exists already; a key is never written over another, name another file") from error
    except OSError as error:
        raise SealError(f"{path}: {(error.strerror or str(error)).lower()}; name a place that can be written") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"cereloop {whose} key {private.hex()}\n")


def read_key(path: str | Path) -> bytes:
    """Read a private key that `write_key` wrote.

    Raises
    ------
    SealError
        If the file cannot be read or holds no key.
    """
    try:
        with Path(path).open("rb") as file:
            words = file.read(500).decode("ascii").split()
        private = bytes.fromhex(words[-1])
    except OSError as error:
        words_of_it = (error.strerror or str(error)).lower()
        raise SealError(f"{path}: {words_of_it}; give the file that `cereloop allocate` wrote") from error
    except (ValueError, IndexError) as error:
        raise SealError(f"{path} holds no key; give the file that `cereloop allocate` wrote") from error
    if len(private) != KEY_BYTES or words[:1] != ["cereloop"]:
        raise SealError(f"{path} holds no key; give the file that `cereloop allocate` wrote")
    return private


def seal_text(text: str, public: bytes) -> str:
    """Text that only the owner of the private key can read, in base64."""
    nacl = _nacl()
    box = nacl.public.SealedBox(nacl.public.PublicKey(public))
    return base64.b64encode(box.encrypt(text.encode())).decode()


def open_text(sealed: str, private: bytes, what: str) -> str:
    """Read what `seal_text` wrote.

    Raises
    ------
    SealError
        If this key does not open it, or it was changed.
    """
    nacl = _nacl()
    try:
        box = nacl.public.SealedBox(nacl.public.PrivateKey(private))
        return str(box.decrypt(base64.b64decode(sealed, validate=True)).decode())
    except (nacl.exceptions.CryptoError, ValueError, binascii.Error) as error:
        raise SealError(f"this key does not open {what}, or {what} was changed; give the key that belongs to it") from error


class RowSeal:
    """Seals and opens the rows of one session that would tell its arm.

    The key follows from the machine's key and from all that `meta` says, so that the same session gives the same bytes and no
    two sessions share a key; a row's number is its nonce.

    Parameters
    ----------
    machine_private : bytes
        The machine's key.
    meta : SessionMeta
        As it stands in the file.
    """

    def __init__(self, machine_private: bytes, meta: SessionMeta) -> None:
        root = sf.meta_digest(sf.meta_pairs(meta))
        key = hashlib.blake2b(root, key=machine_private, digest_size=KEY_BYTES, person=b"cereloop rows").digest()
        nacl = _nacl()
        self._error = nacl.exceptions.CryptoError
        self._box = nacl.secret.SecretBox(key)

    def closed(self, row: LogRow) -> LogRow:
        """The row as it goes into the file."""
        if row.kind not in SEALED_KINDS:
            return row
        cipher = self._box.encrypt(row.body, row.seq.to_bytes(24, "little")).ciphertext
        return row._replace(body=msgspec.json.encode(_Body(base64.b64encode(cipher).decode())))

    def opened(self, row: LogRow) -> LogRow:
        """The row as it was recorded.

        Raises
        ------
        SealedError
            If this key does not open it.
        """
        if not is_sealed(row):
            return row
        try:
            cipher = base64.b64decode(msgspec.json.decode(row.body, type=_Body).sealed, validate=True)
            return row._replace(body=self._box.decrypt(cipher, row.seq.to_bytes(24, "little")))
        except (self._error, ValueError, binascii.Error) as error:
            raise SealedError(f"row {row.seq} ({row.kind}) is sealed, and this key does not open it") from error


def is_sealed(row: LogRow) -> bool:
    """Whether the body of a row is sealed."""
    return row.kind in SEALED_KINDS and row.body.startswith(_OPENING)
