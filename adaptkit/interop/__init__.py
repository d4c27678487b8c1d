"""Other formats: writing a run's result for PEFT, and reading PEFT's. peft is not needed."""
