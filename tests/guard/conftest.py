"""Puts the guard's test helpers (`guard_doubles`, `guard_rig`) on the path, whatever the import mode."""

from __future__ import annotations

import sys
from pathlib import Path

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))
