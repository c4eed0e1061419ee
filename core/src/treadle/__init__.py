"""treadle runs steps."""
