"""The command that calibrates a stimulator's own hardware: ``calibrate-output``."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loop.cli import ConfigOption, Exit, JsonOption, SetOption, configured
from loop.config import ConfigError

STEPS = 6


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("calibrate-output")(calibrate_output)


def calibrate_output(
    resistor_ohm: Annotated[float, typer.Option("--resistor", metavar="OHM", help="As your multimeter reads it.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.json", help="Where it goes.")] = Path("output.json"),
    most_ua: Annotated[int, typer.Option("--most", metavar="UA", help="Greatest current.", min=100, max=2000)] = 1000,
    no_participant: Annotated[
        bool, typer.Option("--no-participant", help="Nobody is connected: a resistor is. Asked for unless given.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Calibrate a LabJack's current source: connect a resistor in place of the electrodes, and let it step.

    Writes gain, offset and the scale of the current monitor, tied to this LabJack's serial number; expires after 90 days. A
    session refuses a LabJack without one (`device.options.calibration`).

    Example: `cereloop calibrate-output --config live-labjack.toml --resistor 4700 --out labjack-470012345.json`
    """
    from devices import labjack_calibration as output
    from devices import registry
    from devices.driver import DriverError, tcp_address
    from devices.labjack import DAC_MAX_V, MODBUS_PORT, LabJackOptions
    from devices.labjack_calibration import OutputCalibrationError
    from devices.tcp_wire import TcpWire

    if config is None:
        raise ConfigError("calibrate-output needs --config FILE.toml: it says where the LabJack is and what its source does")
    chosen = configured(config, "live", overrides, {})
    if chosen.device is None or chosen.device.driver != "labjack":
        found = "missing" if chosen.device is None else chosen.device.driver
        raise ConfigError(f"key `device.driver` is {found}: only the output of driver labjack needs a calibration")
    if not 10.0 <= resistor_ohm <= 100_000.0:
        raise ConfigError(f"--resistor is {resistor_ohm:g}; expected 10 to 100000 ohm, as a multimeter reads it")
    try:
        options: LabJackOptions = registry.choose(chosen.device).options
        wire = TcpWire(*tcp_address(chosen.device.port, MODBUS_PORT))
    except DriverError as error:
        raise ConfigError(str(error)) from error
    if not no_participant:
        typer.echo(f"Up to {most_ua} uA will flow. Take the electrodes OFF everybody; connect {resistor_ohm:g} ohm instead.")
        if typer.prompt("type `resistor` to go on", default="", show_default=False).strip() != "resistor":
            raise typer.Exit(Exit.BAD_INPUT)
    try:
        from devices.labjack_line import Line, open_line
        from devices.labjack_steps import stepped
    except ImportError as error:
        raise ConfigError("driver labjack needs pymodbus, which is not installed; pip install 'cereloop[labjack]'") from error
    line = Line(wire)
    identity = open_line(line)
    top_v = min(DAC_MAX_V, most_ua / 1000.0 / options.gain_ma_per_v)
    points: list[output.Point] = []
    try:
        for point in stepped(line, [top_v * step / (STEPS - 1) for step in range(STEPS)], time.sleep):
            points.append(point)
            if not as_json:
                flowed = point.voltage_v / options.voltage_monitor_v_per_v / resistor_ohm * 1e6
                typer.echo(f"  DAC0 {point.dac_v:6.3f} V   {flowed:7.1f} uA   monitor {point.current_v:7.4f} V", err=True)
    finally:
        wire.close()
    try:
        found_line = output.fit(
            points,
            serial_number=identity.serial_number,
            resistor_ohm=resistor_ohm,
            voltage_monitor_v_per_v=options.voltage_monitor_v_per_v,
            stated_gain_ma_per_v=options.gain_ma_per_v,
            today=dt.datetime.now(tz=dt.UTC).date(),
        )
        output.save(found_line, out)
    except OutputCalibrationError as error:
        raise ConfigError(f"no calibration: {error}") from error
    if as_json:
        typer.echo(msgspec.json.encode(found_line).decode())
        return
    typer.echo(
        f"{identity.model} {identity.serial_number}: {found_line.gain_ma_per_v:.4f} mA/V, "
        f"{found_line.offset_ua:+.1f} uA at 0 V, "
        f"at most {found_line.residual_ua:.1f} uA off"
    )
    typer.echo(f"calibration  {out} (until {found_line.expires})")
