"""Sealed allocation: which code works in which arm, block-randomised, readable by unblinding officer and machine alone."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from loop import sealing
from loop.sealing import SealError

VERSION: Final = 1
MAX_BYTES: Final = 16_000_000
MAX_CODES: Final = 5000
# Letters and digits that are not mistaken for one another.
_LETTERS: Final = "ACDEFHJKLMNPRTUVWXY34679"

AllotedArm = Literal["closed_loop", "open_loop", "sham", "yoked"]
ARMS: Final[tuple[AllotedArm, ...]] = ("closed_loop", "open_loop", "sham", "yoked")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One code's arm, sealed to the officer and to the machine."""

    officer: str
    machine: str


class Allocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file. Nothing in it tells an arm without a key; `officer_only` holds, for the officer, seed and machine's key."""

    version: int
    trial: str
    created: str
    arms: tuple[AllotedArm, ...]
    block: int
    officer_public: str
    machine_public: str
    entries: dict[str, Entry]
    officer_only: str


class _Officer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seed: int
    machine_private: str


def allot(arms: Sequence[AllotedArm], n: int, block: int, seed: int) -> list[AllotedArm]:
    """Arms in order of enrolment: in every block of `block` codes each arm equally often, in an order of chance.

    Raises
    ------
    SealError
        If the block is no multiple of the number of arms.
    """
    if len(set(arms)) != len(arms) or not arms:
        raise SealError("--arms: name each arm once, for example closed_loop,sham")
    if block % len(arms) or block < len(arms):
        raise SealError(f"--block is {block}; with {len(arms)} arms it must be a multiple of {len(arms)}")
    draw = random.Random(f"allocation {seed}")
    out: list[AllotedArm] = []
    while len(out) < n:
        one = [arm for arm in arms for _ in range(block // len(arms))]
        draw.shuffle(one)
        out += one
    return out[:n]


def make(
    trial: str, arms: Sequence[AllotedArm], n: int, block: int, seed: int, officer: bytes, machine: sealing.KeyPair
) -> Allocation:
    """Allot `n` codes.

    Parameters
    ----------
    trial : str
        Name of the study.
    arms : sequence of str
    n, block : int
        Number of codes, and codes in a block.
    seed : int
        Decides order and codes; whoever knows it knows all arms, so it is sealed to the officer.
    officer : bytes
        The officer's public key.
    machine : KeyPair
        The session computer's keys.

    Raises
    ------
    SealError
        If arms, number or block do not do.
    """
    if not 1 <= n <= MAX_CODES:
        raise SealError(f"--codes is {n}; 1 to {MAX_CODES} can be allotted")
    allotted = allot(arms, n, block, seed)
    entries: dict[str, Entry] = {}
    for code, arm in zip(_codes(n, seed), allotted, strict=True):
        # One length for all arms: the sealed text must not tell by its size.
        text = f"{code} {arm:<12}"
        entries[code] = Entry(sealing.seal_text(text, officer), sealing.seal_text(text, machine.public))
    secret = msgspec.json.encode(_Officer(seed, machine.private.hex())).decode()
    return Allocation(
        version=VERSION,
        trial=trial,
        created=dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        arms=tuple(arms),
        block=block,
        officer_public=officer.hex(),
        machine_public=machine.public.hex(),
        entries=entries,
        officer_only=sealing.seal_text(secret, officer),
    )


def _codes(n: int, seed: int) -> list[str]:
    draw = random.Random(f"codes {seed}")
    codes: dict[str, None] = {}
    while len(codes) < n:
        codes["".join(draw.choice(_LETTERS) for _ in range(5))] = None
    return list(codes)


def write(allocation: Allocation, path: Path) -> None:
    """Write a new file. Raises SealError where there is one already."""
    try:
        with path.open("xb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(allocation), indent=1))
    except FileExistsError as error:
        raise SealError(f"{path} exists already; an allocation is never written over another") from error
    except OSError as error:
        raise SealError(f"{path}: {(error.strerror or str(error)).lower()}; name a place that can be written") from error


def load(path: str | Path) -> tuple[Allocation, str]:
    """Read an allocation, and its digest.

    Raises
    ------
    SealError
        If it cannot be read or is none.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise SealError(f"{path}: {words}; give the file that `cereloop allocate` wrote") from error
    try:
        allocation = msgspec.json.decode(data[:MAX_BYTES], type=Allocation, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SealError(f"{path} is no allocation: {error}; give the file that `cereloop allocate` wrote") from error
    if allocation.version != VERSION:
        raise SealError(f"{path} has format {allocation.version}, this software reads {VERSION}")
    return allocation, hashlib.sha256(data).hexdigest()


def arm_of(allocation: Allocation, code: str, machine_private: bytes) -> AllotedArm:
    """The arm of a code, for the machine that runs it.

    Raises
    ------
    SealError
        If there is no such code, or the key is not this machine's.
    """
    return _opened(code, entry_of(allocation, code).machine, machine_private)


def unblind(allocation: Allocation, code: str, officer_private: bytes) -> AllotedArm:
    """The arm of a code, for the officer. Raises SealError."""
    return _opened(code, entry_of(allocation, code).officer, officer_private)


def machine_key_of(allocation: Allocation, private: bytes) -> bytes:
    """The machine's key from either key: the machine's own, or the officer's, to whom it was entrusted. Raises SealError."""
    if sealing.public_of(private).hex() == allocation.machine_public:
        return private
    text = sealing.open_text(allocation.officer_only, private, "the allocation")
    return bytes.fromhex(msgspec.json.decode(text, type=_Officer).machine_private)


def entry_of(allocation: Allocation, code: str) -> Entry:
    """The sealed entry of a code. Raises SealError."""
    entry = allocation.entries.get(code)
    if entry is None:
        raise SealError(f"the allocation of {allocation.trial} has no code {code!r}; it has {len(allocation.entries)} codes")
    return entry


def _opened(code: str, sealed: str, private: bytes) -> AllotedArm:
    words = sealing.open_text(sealed, private, f"the entry of code {code}").split()
    if len(words) != 2 or words[0] != code or words[1] not in ARMS:
        raise SealError(f"the entry of code {code} belongs to another code: the allocation was changed")
    arm: Any = words[1]
    return arm  # type: ignore[no-any-return]


class Unblinding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log of unblindings; `previous` chains the lines (SHA-256 of the line before)."""

    when: str
    who: str
    why: str
    codes: tuple[str, ...]
    host_user: str
    allocation_sha256: str
    previous: str


def log_path(path: str | Path) -> Path:
    """Where the unblindings of an allocation are logged."""
    return Path(f"{path}.unblinded.jsonl")


def note_unblinding(path: str | Path, digest: str, who: str, why: str, codes: Sequence[str], host_user: str) -> Path:
    """Log an unblinding before it happens; on return the line is on disk.

    Raises
    ------
    SealError
        If it cannot be logged: then nothing may be unblinded.
    """
    where = log_path(path)
    try:
        lines = where.read_bytes().splitlines() if where.exists() else []
        line = msgspec.json.encode(
            Unblinding(
                when=dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
                who=who,
                why=why,
                codes=tuple(codes),
                host_user=host_user,
                allocation_sha256=digest,
                previous=hashlib.sha256(lines[-1]).hexdigest() if lines else "",
            )
        )
        with where.open("ab") as file:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SealError(f"{where}: {(error.strerror or str(error)).lower()}; what cannot be logged is not unblinded") from error
    return where
