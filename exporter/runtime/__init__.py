"""The process while it serves: polls, what backends say of themselves, its share of them."""
