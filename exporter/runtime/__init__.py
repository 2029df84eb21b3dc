"""The process while it serves: polls, what backends say of themselves, who leads."""
