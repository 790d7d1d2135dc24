"""What stands in for hardware and human: electrodes, stimulator, amplifier, patient, faults."""
