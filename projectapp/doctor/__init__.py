"""`flask doctor` diagnoses database problems. Only the command imports it."""
