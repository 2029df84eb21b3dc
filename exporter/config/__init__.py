"""What the operator's file says: one frozen `Config`, or every fault of it at once."""
