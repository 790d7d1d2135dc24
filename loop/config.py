"""Strict TOML into frozen structs: every field has a unit, a range and a reason; nothing that steers current has a default."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from devices import limits, registry, settings
from devices.driver import DriverError, PulseDriver
from devices.mock.patient_settings import PatientSettings
from devices.pulse_settings import (
    PulseCeilings,
    PulseLimitError,
    PulseSettings,
    PulseStimulation,
    check_pulse_settings,
    gate_s,
)
from devices.pulses import PulseCapabilities
from loop.config_words import os_words, sentence

MAX_BYTES = 1_000_000
Positive = Annotated[float, Meta(gt=0.0, le=1e6)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Label = Annotated[str, Meta(min_length=1, max_length=64)]


class ConfigError(ValueError):
    """A configuration that cannot be used; one sentence with file, key, what was expected and what to do."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables."""


class SessionTable(_Table, frozen=True):
    """Who, which arm, how long, and where the record goes.

    ``sham`` is ramps only and otherwise goes like `sham_follows`; ``yoked`` repeats the gates of the session file `yoked_to`;
    ``allotted`` takes its arm from the sealed file that the table ``[allocation]`` names. `checklist` is the pre-arm form of
    this participant and day (``cereloop checklist``): a real stimulator needs one.
    """

    arm: Literal["closed_loop", "open_loop", "sham", "yoked", "allotted", "feedback_only"]
    participant: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")]
    duration_s: Annotated[float, Meta(ge=1.0, le=86_400.0)]
    directory: str = "."
    checklist: Annotated[str, Meta(max_length=4096)] = ""
    sham_follows: Literal["closed_loop", "open_loop"] = "closed_loop"
    yoked_to: str = ""


class AllocationTable(_Table, frozen=True):
    """Where the sealed allocation lies (`cereloop allocate` writes it), this machine's key, and the participant's code."""

    file: Annotated[str, Meta(min_length=1)]
    machine_key: Annotated[str, Meta(min_length=1)]
    code: Annotated[str, Meta(pattern=r"^[A-Z0-9]{5}\Z")]


class SourceTable(_Table, frozen=True):
    """Where samples and markers come from.

    ``lsl`` uses `name`, `type`, `source_id` (empty: any) and `marker_name`; ``recording`` uses `path`; ``patient`` uses
    the table ``[patient]``. `jitter_s` is how far a sample's stamp may lie off the regular grid before it counts as a gap.
    `reach` is how far LSL looks and is heard: this machine only, or the network.
    """

    kind: Literal["lsl", "recording", "patient"]
    name: str = ""
    type: str = "EEG"
    source_id: str = ""
    marker_name: str = "cereloop-markers"
    path: str = ""
    reach: Literal["machine", "network"] = "network"
    timeout_s: Annotated[float, Meta(gt=0.0, le=120.0)] = 10.0
    jitter_s: Annotated[float, Meta(ge=0.001, le=0.15)] = 0.03


class MarkersTable(_Table, frozen=True):
    """Other names for the vocabulary's markers, such as ``"target" = "STIM/NOX/100"``.

    `imply_out_due` takes every stimulus as announced, for recordings whose markers never say when an outcome was due.
    `full_intensity` is the noxious intensity that counts as 1; `grades` how strong the grades I1, I2 and I3 of a stated
    cue are, relative to it.
    """

    rename: dict[str, Annotated[str, Meta(max_length=100)]] = msgspec.field(default_factory=dict)
    imply_out_due: bool = False
    full_intensity: Annotated[int, Meta(ge=1, le=100)] = 100
    grades: tuple[Share, Share, Share] = (0.6, 1.0, 1.0)


class ChannelsTable(_Table, frozen=True):
    """Which channels to leave out, and what the amplifier can carry.

    `bad` are left out of everything, and so are `pads`, the sites that the stimulation electrodes cover: the spatial weights
    of a calibration rest on the channels that remain. `rails_under_current` may saturate while current flows. A channel
    counts as railed at `rail_uv`, as flat when its value has not changed for `flat_s`; where all but those that may rail
    are so at once, or not finite, the stream counts as silent, and current ends by an abort ramp.
    """

    bad: tuple[Label, ...] = ()
    pads: tuple[Label, ...] = ()
    rails_under_current: tuple[Label, ...] = ()
    rail_uv: Annotated[float, Meta(gt=0.0, le=1e7)] = 187_500.0
    flat_s: Annotated[float, Meta(ge=0.05, le=10.0)] = 0.25
    line_hz: Literal[50, 60] = 50


class EstimatorTable(_Table, frozen=True):
    """Which estimator, and how it is set up.

    `kind` is a name that ``cereloop estimators`` lists, `calibration` a file that ``cereloop calibrate`` wrote; `forward` the
    participant's own forward solution (``*-fwd.fif``) for making one, empty for a sphere. Without a calibration,
    `left` and `right` are the channels of the average-referenced fallback; empty: the best pair that the cap has, which the
    output names. Each stage can be switched off alone: `muscle_regression` (K4), `basis` (K5), `forward_model` (K6) and
    `innovation` (K7).
    """

    kind: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")] = "posterior_fossa"
    calibration: str = ""
    forward: str = ""
    left: str = ""
    right: str = ""
    warmup_s: Annotated[float, Meta(ge=1.0, le=30.0)] = 3.0
    muscle_regression: bool = True
    basis: bool = True
    forward_model: bool = True
    innovation: bool = True


class PolicyTable(_Table, frozen=True):
    """Evidence to decision: the CUSUM of K12 over outcomes seen in SENSE.

    Without a calibration each outcome adds ``index - expected_offset - expected_gain * surprise - drift`` (standard
    deviations), never below zero. With one, what is expected comes from its readout, and each outcome adds its log
    likelihood ratio, somebody whose error persists against the normative learner, 2.4 for a nat; see `loop.policy`. The
    gate is wanted open at `threshold`, closed again at `release`, on at least `min_outcomes` valid outcomes of this SENSE
    window. Between two gates lie at least `refractory_s`; current flows at most `max_duty` of any `duty_window_s`.
    """

    threshold: Annotated[float, Meta(gt=0.0, le=100.0)]
    release: Annotated[float, Meta(ge=0.0, le=100.0)]
    drift: Annotated[float, Meta(ge=0.0, le=10.0)]
    expected_offset: Annotated[float, Meta(ge=-10.0, le=10.0)]
    expected_gain: Annotated[float, Meta(ge=-10.0, le=10.0)]
    min_outcomes: Annotated[int, Meta(ge=1, le=200)]
    refractory_s: Annotated[float, Meta(ge=0.0, le=3600.0)]
    max_duty: Annotated[float, Meta(gt=0.0, le=1.0)]
    duty_window_s: Annotated[float, Meta(ge=10.0, le=7200.0)]


class GateTable(_Table, frozen=True):
    """The interleaved cycle: SENSE lasts at least `sense_s` (all of it, in open_loop); SETTLE follows every ramp-down."""

    sense_s: Annotated[float, Meta(ge=1.0, le=3600.0)]
    settle_s: Annotated[float, Meta(ge=5.0, le=120.0)]


class HarmTable(_Table, frozen=True):
    """What counts as harm, and how sure one must be (see `loop.harm`); the guard cannot be switched off.

    A rise of the index counts beyond `margin_sd` (standard deviations of its residual). A rise of the mean pain rating
    counts where it reaches `rating_rise` (of 100). `probability` of harm, sceptical and corrected as above, locks the session;
    0.82 takes a Bayes factor of 9. The first ON block needs `min_baseline` valid probe trials before it, every other one
    `min_probe`. The values here were chosen from `loop.accuracy.harm_power`.
    """

    margin_sd: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.1
    rating_rise: Annotated[float, Meta(ge=1.0, le=100.0)] = 10.0
    probability: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.82
    min_baseline: Annotated[int, Meta(ge=10, le=500)] = 30
    min_probe: Annotated[int, Meta(ge=10, le=200)] = 10


class Config(_Table, frozen=True):
    """A whole session's configuration."""

    session: SessionTable
    source: SourceTable
    policy: PolicyTable
    gate: GateTable
    harm: HarmTable = HarmTable()
    allocation: AllocationTable | None = None
    markers: MarkersTable = MarkersTable()
    channels: ChannelsTable = ChannelsTable()
    estimator: EstimatorTable = EstimatorTable()
    patient: PatientSettings | None = None
    stimulation: settings.Stimulation | None = None
    limits: settings.Limits | None = None
    device: settings.Device | None = None
    dose: settings.Dose = settings.Dose()
    pulses: PulseStimulation | None = None
    pulse_limits: PulseCeilings | None = None

    @property
    def may_follow_evidence(self) -> bool:
        """Whether a gate of this session may open on the EEG's evidence (an arm that is not known yet counts)."""
        table = self.session
        return table.arm in ("closed_loop", "allotted") or (table.arm == "sham" and table.sham_follows == "closed_loop")

    @property
    def stimulates(self) -> bool:
        """Whether this session may make current at all."""
        return self.session.arm != "feedback_only"


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file.

    Parameters
    ----------
    path : str or Path
        A TOML file.
    overrides : iterable of str
        Single values such as ``policy.threshold=6``, in TOML notation; a bare word is taken as a string.

    Raises
    ------
    ConfigError
        If the file cannot be read or anything in it cannot be used; the message names file and key.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path}: longer than {MAX_BYTES} bytes; give a TOML configuration")
        text = data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {os_words(error)}; give the path of a TOML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); give a TOML file") from error
    return parse(text, str(path), overrides)


def parse(text: str, where: str = "config", overrides: Iterable[str] = ()) -> Config:
    """Turn TOML text into a `Config`; `where` names its origin in error messages. Raises ConfigError."""
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from error
    for override in overrides:
        _apply(tree, override)
    return from_tree(tree, where)


def from_tree(tree: Mapping[str, Any], where: str = "config") -> Config:
    """Turn nested dictionaries, as `tomllib` makes them, into a `Config`. Raises ConfigError."""
    try:
        _refuse_nonfinite(tree, where, "")
        config = msgspec.convert(tree, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {sentence(error, tree, Config)}") from error
    except UnicodeError as error:
        # Bytes on the command line that are no UTF-8 arrive as halves of characters.
        raise ConfigError(f"{where}: a key or a value is not UTF-8; expected text") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: tables are nested too deeply; expected at most two levels") from error
    _check(config, where)
    return config


def encode(config: Config) -> bytes:
    """Canonical JSON of `config`: what is recorded, hashed and read back."""
    return msgspec.json.encode(config, order="deterministic")


def decode(data: bytes | str, where: str = "recorded config") -> Config:
    """Read back what `encode` wrote. Raises ConfigError."""
    try:
        tree = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: expected an object of tables, got {type(tree).__name__}")
    return from_tree({key: value for key, value in tree.items() if value is not None}, where)


def digest(config: Config) -> str:
    """SHA-256 of the canonical bytes."""
    return hashlib.sha256(encode(config)).hexdigest()


def guard_settings(
    config: Config, session: str, *, input_is_simulated: bool, checklist: str = ""
) -> settings.Settings:
    """The part that the guard reads by itself (I06).

    Parameters
    ----------
    config : Config
    session : str
        Name of the session.
    input_is_simulated : bool
        Whether the samples come from a model, a mock or a recording.
    checklist : str
        Text of the pre-arm form; empty for none.

    Raises
    ------
    ConfigError
        If the configuration makes no current.
    """
    if config.stimulation is None or config.limits is None or config.device is None:
        raise ConfigError("this configuration has no [stimulation], [limits] and [device]; there is nothing to guard")
    return settings.Settings(
        session=session,
        stimulation=config.stimulation,
        limits=config.limits,
        device=config.device,
        input_is_simulated=input_is_simulated,
        participant=config.session.participant,
        dose=config.dose,
        checklist=checklist,
        blinded=config.allocation is not None,
    )


def pulse_guard_settings(
    config: Config, session: str, *, input_is_simulated: bool, checklist: str = ""
) -> PulseSettings:
    """As `guard_settings`, for a session that gives pulses.

    Raises
    ------
    ConfigError
        If the configuration gives none.
    """
    if config.pulses is None or config.pulse_limits is None or config.device is None:
        raise ConfigError("this configuration has no [pulses], [pulse_limits] and [device]; there is nothing to guard")
    return PulseSettings(
        session=session,
        pulses=config.pulses,
        pulse_limits=config.pulse_limits,
        device=config.device,
        input_is_simulated=input_is_simulated,
        participant=config.session.participant,
        dose=config.dose,
        checklist=checklist,
        blinded=config.allocation is not None,
    )


_NO_PULSES: Final = {
    "sham": (
        "with [pulses] there is no sham in software, since it needs another coil; write closed_loop, open_loop or "
        "feedback_only, and give a sham by connecting a sham coil"
    ),
    "yoked": (
        "a yoked gate lasts as long as another session's, and a gate of pulses as long as its number of pulses; write "
        "open_loop for a control whose gates do not follow the EEG, or closed_loop or feedback_only"
    ),
    "allotted": (
        "an allocation can deal out sham or yoked, which [pulses] cannot give, and nobody is to know before; write "
        "closed_loop, open_loop or feedback_only, and take [allocation] out"
    ),
}
"""Arms that a session of pulses cannot have: why, and what to do."""


def _check_pulses(config: Config, pulses: PulseStimulation, where: str) -> None:
    """A session of magnetic pulses: what goes with them, and what cannot."""
    for table in ("stimulation", "limits"):
        if getattr(config, table) is not None:
            raise ConfigError(f"{where}: tables `pulses` and `{table}` exclude each other: a session gives pulses or a current")
    if config.pulse_limits is None or config.device is None:
        missing = "pulse_limits" if config.pulse_limits is None else "device"
        raise ConfigError(f"{where}: key `{missing}` is missing: [pulses] needs it in full; nothing that limits has a default")
    if config.session.arm in _NO_PULSES:
        raise ConfigError(f"{where}: key `session.arm` is {config.session.arm}: {_NO_PULSES[config.session.arm]}")
    if config.stimulates and config.source.kind != "lsl":
        raise ConfigError(
            f"{where}: key `source.kind` is {config.source.kind}: pulses are given in live sessions only; write lsl, or arm "
            "feedback_only"
        )
    try:
        check_pulse_settings(pulses, config.pulse_limits)
        choice = registry.choose(config.device) if config.device.driver in registry.BUILT_IN else None
    except (PulseLimitError, DriverError) as error:
        raise ConfigError(f"{where}: {error}") from error
    if choice is not None and not isinstance(choice.driver, PulseDriver):
        driver = config.device.driver
        raise ConfigError(f"{where}: key `device.driver` is {driver}, which makes a current; [pulses] asks for pulses")
    if choice is not None:
        _check_rate(choice.capabilities, pulses, where)
    _check_room(config, gate_s(pulses), where)


def _check_rate(can: object, pulses: PulseStimulation, where: str) -> None:
    """A device that paces its trains counts their rate in steps."""
    step_hz = can.rate_step_hz if isinstance(can, PulseCapabilities) else 0.0
    if not step_hz:
        return
    # Both in thousandths, so that what divides evenly is seen to.
    possible = [ms for ms in range(1000, 10_001) if 1_000_000 % (ms * round(1000 * step_hz)) == 0]
    if pulses.interval_ms not in possible:
        raise ConfigError(
            f"{where}: key `pulses.interval_ms` is {pulses.interval_ms}: in this mode the device paces its trains in steps of "
            f"{step_hz:g} Hz; write one of {', '.join(map(str, possible))}, or choose a `device.mode` in which the host paces"
        )


def _check_room(config: Config, one_gate_s: float, where: str) -> None:
    room_s = config.policy.max_duty * config.policy.duty_window_s
    if one_gate_s > room_s:
        raise ConfigError(
            f"{where}: keys `policy.max_duty` and `policy.duty_window_s` leave room for {room_s:g} s of current, but one "
            f"gate takes {one_gate_s:g} s; it could never open"
        )


def _check(config: Config, where: str) -> None:
    """What no single field can tell."""
    if config.pulses is not None:
        _check_pulses(config, config.pulses, where)
    elif config.stimulates:
        for table in ("stimulation", "limits", "device"):
            if getattr(config, table) is None:
                raise ConfigError(
                    f"{where}: key `{table}` is missing: arm {config.session.arm} makes current, so [{table}] must be "
                    "given in full; nothing that limits or steers current has a default"
                )
    if config.stimulation is not None and config.limits is not None and config.device is not None:
        guard = guard_settings(config, "check", input_is_simulated=True)
        try:
            limits.check_settings(guard)
        except limits.LimitError as error:
            raise ConfigError(f"{where}: {error}") from error
        if config.device.driver in registry.BUILT_IN:
            # Another's driver need not be installed where its session is only read; the guard looks it up by itself.
            try:
                registry.choose(config.device)
            except DriverError as error:
                raise ConfigError(f"{where}: {error}") from error
        _check_room(config, 2 * config.stimulation.ramp_s + config.stimulation.hold_s, where)
    if (config.session.arm == "allotted") != (config.allocation is not None):
        raise ConfigError(
            f"{where}: key `session.arm` is {config.session.arm}: arm allotted and the table [allocation] go together; give "
            "both, or neither"
        )
    if config.session.arm == "yoked" and not config.session.yoked_to:
        raise ConfigError(f"{where}: key `session.yoked_to` is missing: arm yoked repeats another session; name its file")
    if config.policy.release >= config.policy.threshold:
        raise ConfigError(
            f"{where}: key `policy.release` is {config.policy.release:g}, which is not below `policy.threshold` "
            f"({config.policy.threshold:g}); without hysteresis the gate would chatter"
        )
    if config.source.kind == "recording" and not config.source.path:
        raise ConfigError(f"{where}: key `source.path` is missing: source.kind is recording; name the file to replay")
    if config.source.kind == "patient" and config.patient is None:
        raise ConfigError(f"{where}: key `patient` is missing: source.kind is patient; add a [patient] table")
    if bool(config.estimator.left) != bool(config.estimator.right):
        raise ConfigError(f"{where}: keys `estimator.left` and `estimator.right` go together; give both or neither")


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(f"override `{override}`: expected TABLE.KEY=VALUE, for example policy.threshold=6")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    node: Any = tree
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override `{override}`: `{part}` is not a table")
    node[parts[-1]] = parsed


def _refuse_nonfinite(node: object, where: str, path: str) -> None:
    if isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"{where}: key `{path}` is {node}; expected a finite number")
    if isinstance(node, Mapping):
        for key, value in node.items():
            _refuse_nonfinite(value, where, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _refuse_nonfinite(value, where, f"{path}[{index}]")
