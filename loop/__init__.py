"""cereloop: the loop between EEG and transcranial direct-current stimulation. Research use only."""
