"""The fault campaign: every row of the hazard table, on the virtual clock and with real processes, judged by an ammeter."""
