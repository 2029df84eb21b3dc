"""What was read -> what is counted: each row once. Pure: no clock, no database, no network."""
