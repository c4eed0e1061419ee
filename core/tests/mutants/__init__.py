"""One known-bad executor for each rule of the kit: it breaks that rule and no other."""
