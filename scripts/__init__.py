"""What builds parts of the repository."""
