"""Other formats: how what a run learnt is written for PEFT, and read from it. Without peft."""
