"""Do the data checks find faults, and are they silent on clean data? Injected faults, measured."""
