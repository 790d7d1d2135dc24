"""The mock's physical numbers: each has its provenance, lies in its range, and reaches the model."""

from __future__ import annotations

import msgspec
import pytest

from devices.mock import numbers, stimulator_process
from devices.mock.electrodes import ElectrodeParameters, skin_ohm
from devices.mock.output import OutputParameters

# Counts of milliseconds of our own protocol and firmware: choices, not measurements.
CHOSEN = {"latency_ms", "relay_ms", "report_ms", "test_period_ms", "test_pulse_ms"}


def test_every_number_has_a_source_and_lies_in_its_range() -> None:
    for table in numbers.tables().values():
        for key, number in table.items():
            low, high = number.range
            assert low <= number.value <= high, key
            assert number.unit, key
            assert len(number.source) >= 8, key


@pytest.mark.parametrize("pair", numbers.pairs())
def test_every_parameter_of_the_electrodes_is_in_the_file_and_none_besides(pair: str) -> None:
    assert set(numbers.values(pair)) == set(ElectrodeParameters.__struct_fields__)
    assert set(numbers.values("output")) == set(OutputParameters.__struct_fields__) - CHOSEN


def test_the_defaults_are_the_file_s() -> None:
    assert msgspec.structs.asdict(ElectrodeParameters()) == numbers.values("saline_pads")
    assert OutputParameters().compliance_v == numbers.values("output")["compliance_v"]


def test_a_pair_is_named_with_some_of_its_numbers_changed() -> None:
    gel = ElectrodeParameters.named("gel_hd:skin_settled_ohm=3000,cardiac_modulation=0,respiratory_modulation=0")
    assert (gel.polarisation_v, gel.skin_settled_ohm, gel.bulk_ohm) == (0.2, 3000.0, 400.0)
    assert skin_ohm(gel, 1e9, 0.0) == pytest.approx(3000.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dry_sponge", "no pair of electrodes 'dry_sponge'; the names are: saline_pads, gel_hd"),
        ("saline_pads:ohm=5", "should read key=value with one of: bulk_ohm"),
        ("saline_pads:bulk_ohm", "should read key=value"),
        ("saline_pads:bulk_ohm=many", "is no number within 200 .. 1000 ohm"),
        ("saline_pads:bulk_ohm=nan", "is no number within"),
        ("saline_pads:bulk_ohm=1e9", "is no number within"),
    ],
)
def test_what_cannot_be_is_one_sentence(text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(numbers.NumberError, match=words):
        numbers.pair_values(text)
    with pytest.raises(SystemExit) as ended:
        stimulator_process.main(["--electrodes", text])
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
