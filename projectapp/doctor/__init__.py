"""`flask doctor` diagnoses database problems. Only this command imports the package."""
