"""Its import raises what a person's Ctrl-C raises."""

raise KeyboardInterrupt
