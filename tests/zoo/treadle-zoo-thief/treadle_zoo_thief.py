"""Its entry point is somebody else's function."""
