"""Study ``validation``."""
