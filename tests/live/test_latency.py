"""The latency measurement runs on real processes and gives figures for both; their ratio is for a quiet machine to judge."""

from __future__ import annotations

import json
import subprocess

from live_rig import cereloop


def test_it_measures_ours_beside_the_bare_one() -> None:
    done = subprocess.run(cereloop("bench", "latency", "--seconds", "4", "--json"), capture_output=True, text=True,
                          check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["latency"]
    print(f"\nlatency: p50 {result['ratio_p50']:.2f} ×, p99 {result['ratio_p99']:.2f} × a bare pull and send")
    for row in (result["bare"], result["loop"]):
        assert row["n"] >= 50
        assert 0.0 < row["p50_us"] <= row["p99_us"] <= row["p999_us"] <= row["max_us"]
