"""The tools of repo-digest: each NAME.py here is the executor tool.NAME."""
