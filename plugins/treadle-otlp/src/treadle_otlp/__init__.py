"""Traces and metrics of treadle to any OTLP backend, configured by the standard ``OTEL_*`` variables and nothing else."""

from treadle_otlp._pipeline import setup

__all__ = ["setup"]
